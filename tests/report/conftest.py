"""Runs to look at, made once: a real tiny one, and one whose responses try to break the page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
import yaml

from reasoner_rl.config.load import load_recipe
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.observability.summary import write_json, write_jsonl
from reasoner_rl.trainer.train import train
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

LONG_LINE = "ab cd " * 17_000
# What responses say that a page must only ever show.
HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 1"><b>bold</b>',
    "a lone surrogate \ud800, and \U0001d11e, and é",
    LONG_LINE,
    r"so $\frac{1}{2}$, \(x^2\), \[y\], \boxed{\text{<i>}} and $5 or 6$7, $\href{javascript:broken}{z}$",
)


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory, tiny_run: dict[str, Any]) -> Path:
    """A run of 4 steps as `reasoner-rl train` leaves it."""
    output = tmp_path_factory.mktemp("report") / "tiny"
    recipe = output.with_name("recipe.yaml")
    recipe.write_text(yaml.safe_dump({**tiny_run, "run": {**tiny_run["run"], "output_dir": str(output)}}))
    assert train(load_recipe(recipe)) is not None  # type: ignore[arg-type]
    return output


def made_up_group(
    tokenizer: Any, uid: str, texts: Sequence[str], accuracies: Sequence[float]
) -> tuple[ScoredGroup, list[TrainSample]]:
    """A group with these responses. Token i of a response has logprob -i/10, and the trainer's is 0.05 higher."""
    rollouts, rewards, samples = [], [], []
    for number, (text, accuracy) in enumerate(zip(texts, accuracies, strict=True)):
        ids = tokenizer.encode(text[:200].encode("utf-8", "replace").decode(), add_special_tokens=False)
        logprobs = [-0.1 * place for place in range(len(ids))]
        rollouts.append(Rollout(ids, logprobs, "length" if number == 1 else "stop", 1, text))
        status = "timeout" if number == 2 else "ok"
        score = 2 * accuracy - 1
        parts = {"answer": score, "format": 0.25 * number}
        rewards.append(Reward(score, accuracy, parts, status, extracted="<i>" if accuracy else None))
        samples.append(
            TrainSample(
                prompt_ids=torch.tensor([1, 2]),
                response_ids=torch.tensor(ids),
                loss_mask=torch.arange(len(ids)) > 0,
                advantages=torch.linspace(-1, 1, len(ids)),
                rollout_logprobs=torch.tensor(logprobs),
                old_logprobs=torch.tensor(logprobs) + 0.05,
            )
        )
    prompt = Prompt(uid, (1, 2), f"<b>{uid}</b>: what is $1 + 1$?", "<i>", "made up")
    return ScoredGroup(prompt, tuple(rollouts), tuple(rewards)), samples


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """Step 1 in parquet with a dropped group, step 2 in JSONL alone, step 3 broken, step 4 as step 1; no summary."""
    folder = tmp_path_factory.mktemp("report") / "<b>hostile"
    accuracies = (1.0, 0.0, 1.0, 0.0, 0.0)
    group, samples = made_up_group(tiny_tokenizer, "problem <1>", HOSTILE, accuracies)
    other, _ = made_up_group(tiny_tokenizer, "problem <2>", ["all wrong"] * 2, (0.0, 0.0))
    RolloutRecorder(folder, "all", "parquet").rollouts(1, [group], samples, [other])
    RolloutRecorder(folder, "all", "jsonl").rollouts(2, [group], samples)
    (folder / "rollouts" / "step_000003.parquet").write_bytes(b"PAR1 broken")
    RolloutRecorder(folder, "all", "parquet").rollouts(4, [group], samples)
    write_jsonl(
        folder / "metrics.jsonl",
        [{"step": n, "reward/score": 0.1 * n, "time/step": 1.0} for n in range(1, 25)],
    )
    write_json(folder / "run.json", {"torch": "1.0"})
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"recipe": "online", "run": {"steps": 24}}))
    tiny_tokenizer.save_pretrained(folder / "final")
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, started once."""
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
