#!/usr/bin/env python3
"""Compare the plan's memory with that of real steps on a CPU: peaks of resident memory by phase, one process per case.

    python scripts/bench/plan_memory.py [--backend fsdp megatron] [--cases 1 2 3 ...] [--json FILE]

Models have random weights, 64 and 100 million parameters, in float32. A step draws responses of a fixed length with
the embedded engine and makes two optimizer updates. What is compared is the peak of resident memory in a phase less
that of the process when all libraries were imported, with glibc made to give freed memory back (commands/probe.py).
"""

# Verifier processes import this file, so everything heavy is imported where it is used.
from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoner_rl.commands.probe import Probe
    from reasoner_rl.config.recipes import OnlineConfig
    from reasoner_rl.plan.memory import MemoryPlan

PROBLEM = "Compute 1+2"
PROMPT_TOKENS = 5
# What the driver times -> phases of the plan that happen in it.
PHASES = {"generate": ["generate"], "prepare": ["logprobs policy"], "update": ["update policy"]}


@dataclass(frozen=True, slots=True)
class Case:
    """One step."""

    model: str  # a key of SHAPES
    responses: int  # per prompt; there are two prompts, one for each update
    tokens: int  # of a response
    micro_batch: int  # sequences in one
    checkpointing: bool = False
    kl: float = 0.0  # above 0 there is a reference


# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied
SHAPES = {"64M": (512, 2048, 8, 8, 8, 32000, False), "100M": (768, 2048, 12, 12, 4, 32000, True)}
CASES = (
    Case("64M", 4, 128, 4),
    Case("64M", 4, 128, 4, checkpointing=True),
    Case("64M", 4, 128, 1),
    Case("64M", 2, 640, 2),
    Case("100M", 4, 96, 4, kl=0.1),
    Case("100M", 2, 640, 2, checkpointing=True),
)


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    """A reward that differs within a group and means nothing."""
    return float(len(set(solution_str)) % 2)


def make_checkpoint(folder: Path, shape: tuple[Any, ...]) -> Path:
    """A Qwen2 with random weights and the quickstart's tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from reasoner_rl.commands.make_tiny_model import build_tokenizer

    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = shape
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_problems(file: Path) -> Path:
    """Eight problems of one length."""
    rows = [{"problem": PROBLEM[:-1] + str(number), "answer": "3"} for number in range(8)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def recipe(model: Path, data: Path, case: Case, backend: str) -> OnlineConfig:
    """GRPO on made-up problems; every response has the full length."""
    from reasoner_rl.config.recipes import OnlineConfig

    tree = {
        "run": {"output_dir": "unused", "steps": 1, "threads": 1},
        "model": {"path": str(model), "gradient_checkpointing": case.checkpointing},
        "data": {"train": {"path": str(data)}, "prompts": {"max_tokens": PROMPT_TOKENS}},
        "rollout": {
            "responses_per_prompt": case.responses,
            "sampling": {"max_response_tokens": case.tokens, "min_response_tokens": case.tokens},
        },
        "reward": {"functions": [{"fn": f"{Path(__file__).resolve()}:compute_score"}], "workers": 1},
        "algorithm": {"kind": "grpo", "loss": {"kl": {"coefficient": case.kl}}},
        "batch": {
            "prompts_per_step": 2,
            "prompts_per_update": 1,
            "micro_batch_tokens": case.micro_batch * (case.tokens + PROMPT_TOKENS),
        },
        "training": {"backend": {"kind": backend}},
    }
    return OnlineConfig.model_validate(tree)


def planned_memory(config: OnlineConfig) -> MemoryPlan:
    """The plan of a recipe's first step on a CPU."""
    from reasoner_rl.plan.architecture import read_architecture
    from reasoner_rl.plan.hardware import hardware
    from reasoner_rl.plan.memory import plan_memory
    from reasoner_rl.plan.setup import make_setup

    return plan_memory(make_setup(config, hardware("cpu"), read_architecture), first_step=True)


def rows(plan: MemoryPlan, measured: Probe) -> Iterator[tuple[str, float, float]]:
    """Yield (phase, planned GiB, measured GiB above the baseline)."""
    for phase, names in PHASES.items():
        found = [each for each in plan.phases if each.name in names]
        if found:
            planned = max(each.bytes for each in found) / 2**30
            yield phase, planned, measured.above_baseline_gib(phase)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", nargs="+", choices=["fsdp", "megatron"], default=["fsdp", "megatron"])
    parser.add_argument("--cases", nargs="+", type=int, default=range(1, len(CASES) + 1), help="from 1")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    from reasoner_rl.commands.probe import probe

    written = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_problems(folder / "problems.jsonl")
        models = {
            shape: make_checkpoint(folder / shape, SHAPES[shape])
            for shape in {CASES[n - 1].model for n in options.cases}
        }
        print(
            "| backend | case | phase | planned GiB | measured GiB | planned / measured |\n|---|---|---|---|---|---|"
        )
        for backend in options.backend:
            for number in options.cases:
                case = CASES[number - 1]
                config = recipe(models[case.model], data, case, backend)
                measured, plan = probe(config), planned_memory(config)
                for phase, gib, real in rows(plan, measured):
                    print(
                        f"| {backend} | {number} | {phase} | {gib:.2f} | {real:.2f} | {gib / real:.2f} |",
                        flush=True,
                    )
                written.append(
                    {"backend": backend, "case": asdict(case), "measured": asdict(measured)}
                    | {"planned": {phase.name: phase.bytes for phase in plan.phases}}
                )
                if options.json is not None:
                    options.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
