"""A tiny Qwen2 model with random weights and a tokenizer for the quickstart's problems.

0.8 million parameters; one token per character, and one each for the words of the quickstart.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils import logging as transformers_logging

from reasoner_rl.observability.messages import say
from reasoner_rl.training.disk_space import follow_umask

SPECIAL = ["<|pad|>", "<|eos|>"]
WORDS = ["Compute", " Answer", "Answer"]


def build_tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer over printable ASCII whose only merges build up the words."""
    byte_level = ByteLevel(add_prefix_space=False, use_regex=False)

    def as_bytes(text: str) -> str:
        return byte_level.pre_tokenize_str(text)[0][0]

    tokens = [*SPECIAL, *(as_bytes(character) for character in " \n" + string.printable[:94])]
    merges: list[tuple[str, str]] = []
    for word in map(as_bytes, WORDS):
        # From the end, so that " Answer" and "Answer" share all but the last merge.
        for start in range(len(word) - 2, -1, -1):
            merge = (word[start], word[start + 1 :])
            if merge not in merges:
                merges.append(merge)
                tokens.append("".join(merge))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # pairs are what it takes, whatever the annotation says
        unk_token=None,  # type: ignore[arg-type]
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        model_max_length=512,
    )


def build_model(tokenizer: Qwen2Tokenizer, layers: int, width: int) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights drawn from torch's generator."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        # Four times the usual: at this width the usual one spends half of the warm start on a plateau.
        initializer_range=0.08,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def make_tiny_model(folder: Path, seed: int = 0, layers: int = 4, width: int = 128) -> None:
    """Write a checkpoint and its tokenizer into ``folder``. seed: decides the weights; width: the hidden size."""
    transformers_logging.disable_progress_bar()  # of a moment
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(tokenizer, layers, width)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    follow_umask(folder)
    say(f"{folder}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")
