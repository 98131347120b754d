"""Preference runs: each method learns and logs its numbers; the precomputed reference says what the live one does."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reasoner_rl.commands.evaluate import evaluate_checkpoint
from reasoner_rl.commands.inspect_data import inspect_data
from reasoner_rl.config.recipes import EvalConfig, PreferenceConfig
from reasoner_rl.distributed.models import PolicyGroup
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.prompts.fingerprint import fingerprint
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer import reference_cache
from reasoner_rl.trainer.loading import load_judged
from reasoner_rl.trainer.loop import Trainer
from reasoner_rl.trainer.train import load_data, train

Recipe = Callable[..., PreferenceConfig]
PAIRS = [{"prompt": f"{n} plus 1?", "chosen": f"{n + 1}", "rejected": f"it is {n}"} for n in range(9)]
SINGLE = [
    {"prompt": f"{n} plus 1?", "completion": f"{n + good}", "label": bool(good), "reward": good - 0.25}
    for n in range(6)
    for good in (1, 0)
]


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Recipe:
    """A function (name of the output folder, algorithm, sections) that makes a recipe of steps of 4 examples."""
    for name, rows in (("pairs", PAIRS), ("single", SINGLE)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(name: str, algorithm: dict[str, Any], steps: int = 4, **sections: Any) -> PreferenceConfig:
        unpaired = algorithm["kind"] in ("kto", "score_weighted_sft")
        tree: dict[str, Any] = {
            "run": {"output_dir": tmp_path / name, "steps": steps, "threads": 1, "seed": 1},
            "model": {"path": str(tiny_checkpoint("llama-untied"))},
            "data": {"train": {"path": tmp_path / ("single.jsonl" if unpaired else "pairs.jsonl")}},
            "algorithm": algorithm,
            "batch": {"examples_per_step": 4, "micro_batch_tokens": 60},
            "training": {"optimizer": {"lr": 3.0e-3}, "schedule": {"kind": "constant"}},
            "checkpoint": {"every_steps": 1},
            "logging": {"tensorboard": False, "progress": False},
        }
        return PreferenceConfig.model_validate(tree | sections)

    return make


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    measured = ("time/", "speed/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(measured)} for row in rows]


OF_PAIRS = {
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "preference/loss"),
    *("logps/chosen", "logps/rejected"),
}
METHODS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "kto": ({"kind": "kto", "beta": 0.5}, (OF_PAIRS | {"preference/kl"}) - {"rewards/accuracies"}),
    "orpo": ({"kind": "orpo", "odds_ratio_weight": 1.0}, OF_PAIRS | {"preference/nll"}),
    "simpo": ({"kind": "simpo"}, OF_PAIRS),
    "scores": (
        {"kind": "score_weighted_sft"},
        {"preference/loss", "preference/nll", "preference/score", "preference/negative_weights"},
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns(name: str, recipe: Recipe, tmp_path: Path) -> None:
    algorithm, logged = METHODS[name]
    config = recipe("run", algorithm, batch={"examples_per_step": 12 if name in ("kto", "scores") else 9})
    summary = train(config)
    assert summary is not None
    assert (summary["steps"], summary["algorithm"]) == (4, algorithm["kind"])
    rows = rows_of(tmp_path / "run")
    names = {key for key in rows[0] if key.startswith(("rewards/", "preference/", "logps/"))}
    assert names == logged
    # Every step is the whole data, so that losses compare.
    losses = [row["preference/loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]
    if name == "kto":
        first, last = rows[0], rows[-1]
        assert first["preference/kl"] == pytest.approx(0.0, abs=1e-5), "the policy is its reference"
        assert first["preference/loss"] == pytest.approx(0.5, abs=1e-4)
        assert last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"])
        assert last["rewards/chosen"] > 0.01 > -0.01 > last["rewards/rejected"]


LIVE = {"kind": "dpo", "beta": 0.5, "kl_coefficient": 0.1}


def test_a_precomputed_reference_says_what_a_live_one_does(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    precomputed = LIVE | {"reference": "precomputed", "reference_cache": str(cache)}
    monkeypatch.setattr(reference_cache, "EXAMPLES_PER_FILE", 4)
    assert train(recipe("live", LIVE)) is not None
    live = rows_of(tmp_path / "live")
    assert live[0]["preference/loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert live[-1]["rewards/margins"] > 0.01

    asked: list[int] = []
    logprobs = PolicyGroup.logprobs

    def counted(self: PolicyGroup, samples: Any) -> Any:
        asked.append(len(samples))
        assert len({sample.group for sample in samples}) * 2 == len(samples), "pairs can be parted"
        return logprobs(self, samples)

    monkeypatch.setattr(PolicyGroup, "logprobs", counted)
    capsys.readouterr()
    assert train(recipe("first", precomputed)) is not None
    assert asked == [8, 8, 2], "four pairs a file"
    [folder] = cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [f"part_0000{n}.safetensors" for n in range(3)]
    assert f"reference logprobs: 0 of 3 files exist in {folder}\n" in capsys.readouterr().out
    rows = rows_of(tmp_path / "first")
    assert len(rows) == len(live) == 4
    for mine, theirs in zip(rows, live, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)

    # A run that is interrupted and resumed makes the same rows, and computes nothing of the reference again.
    step = Trainer.step

    def step_with_ctrl_c(run: Trainer) -> None:
        if run.state.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_with_ctrl_c)
        assert train(recipe("second", precomputed)) is None
    assert len(rows_of(tmp_path / "second")) == 2
    asked.clear()
    assert train(recipe("second", precomputed)) is not None
    assert asked == []
    assert "reference logprobs: 3 of 3 files exist" in capsys.readouterr().out
    assert rows_of(tmp_path / "second") == rows

    damaged, short = folder / "part_00001.safetensors", folder / "part_00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(
        DataError, match=f"^{re.escape(str(damaged))}: cannot be read .*: delete it, and it is"
    ):
        train(recipe("third", precomputed))
    damaged.write_bytes(short.read_bytes())
    with pytest.raises(
        DataError, match=r"part_00001.*: holds \d+ logprobs, and its answers have \d+ tokens: delete"
    ):
        train(recipe("third", precomputed))
    damaged.unlink()
    assert train(recipe("third", precomputed, steps=1)) is not None
    assert asked == [8]


class CountsTokens:
    """A policy whose logprob of the n-th response token, of all that it was ever asked about, is n."""

    def __init__(self) -> None:
        self._told = 0

    def logprobs(self, samples: Any) -> list[torch.Tensor]:
        found = []
        for sample in samples:
            found.append(torch.arange(len(sample.response_ids)).float() + self._told)
            self._told += len(sample.response_ids)
        return found


def test_precomputed_logprobs_come_back_to_their_samples(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_cache, "EXAMPLES_PER_FILE", 2)
    config = recipe("run", LIVE | {"reference": "precomputed"})
    examples = load_judged(config, load_tokenizer(config.model))
    policy: Any = CountsTokens()
    attached = reference_cache.with_precomputed_reference(config, examples, fingerprint(examples), policy)
    samples = [sample for example in attached for sample in example]
    columns = [sample.reference_logprobs for sample in samples if sample.reference_logprobs is not None]
    assert [len(column) for column in columns] == [len(s.response_ids) for e in examples for s in e]
    assert torch.cat(columns).tolist() == list(range(sum(map(len, columns))))
    assert all(column.untyped_storage().nbytes() == 4 * len(column) for column in columns), "sent alone"
    without = [tuple(s.replace(reference_logprobs=None) for s in example) for example in attached]
    assert [[s.group for s in example] for example in without] == [[0, 0]] * 9, "nothing else is changed"


def test_a_folder_for_precomputed_logprobs_that_cannot_be_used_is_named(
    recipe: Recipe, tmp_path: Path
) -> None:
    policy: Any = CountsTokens()

    def refusal(cache: Path | None) -> str:
        chosen = {"reference_cache": str(cache)} if cache else {}
        config = recipe("run", LIVE | {"reference": "precomputed"} | chosen)
        examples = load_judged(config, load_tokenizer(config.model))
        with pytest.raises(ConfigError) as caught:
            reference_cache.with_precomputed_reference(config, examples, fingerprint(examples), policy)
        return str(caught.value)

    file, cache = tmp_path / "file", tmp_path / "cache"
    file.touch()
    for wrong in (file, file / "below"):
        text = refusal(wrong)
        assert text.startswith(f"algorithm.reference_cache={wrong}: {wrong}/"), text
        assert "cannot be written: [Errno 20] Not a directory" in text
    config = recipe("run", LIVE)
    examples = load_judged(config, load_tokenizer(config.model))
    key = reference_cache._key(config.model, fingerprint(examples))
    for parent, chosen in (
        (cache, f"algorithm.reference_cache={cache}"),
        (tmp_path / "run" / "reference_logprobs", f"run.output_dir={tmp_path / 'run'}"),
    ):  # the folder can be made, and its file cannot be written: a folder has the place of the temporary one
        (parent / key / f".part_00000.safetensors.{os.getpid()}.tmp").mkdir(parents=True)
        text = refusal(cache if parent is cache else None)
        assert text.startswith(f"{chosen}: {parent / key}/part_00000.safetensors cannot be written: "), text
        assert "Is a directory" in text


def test_no_half_written_logprobs_are_left(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe("run", LIVE | {"reference": "precomputed"})
    examples = load_judged(config, load_tokenizer(config.model))
    data = fingerprint(examples)
    folder = tmp_path / "run" / "reference_logprobs" / reference_cache._key(config.model, data)
    policy: Any = CountsTokens()
    with monkeypatch.context() as patched:

        def full(path: Path, content: bytes) -> int:
            with path.open("wb") as file:
                file.write(content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            reference_cache.with_precomputed_reference(config, examples, data, policy)
    assert list(folder.iterdir()) == [], "of a full disk"
    (folder / ".part_00000.safetensors.1.tmp").write_bytes(b"half")
    reference_cache.with_precomputed_reference(config, examples, data, policy)
    assert [path.name for path in folder.iterdir()] == ["part_00000.safetensors"], (
        "of a start that was killed"
    )


def test_what_the_precomputed_logprobs_depend_on(recipe: Recipe, tmp_path: Path) -> None:
    config = recipe("run", LIVE)
    examples = load_judged(config, load_tokenizer(config.model))

    def key(model: dict[str, Any], count: int = 9) -> str:
        changed = config.model.model_copy(update=model)
        return reference_cache._key(changed, fingerprint(examples[:count]))

    assert key({"gradient_checkpointing": True}) == key({})
    others = [key({"dtype": "bfloat16"}), key({}, 8), key({"path": str(tmp_path)})]
    assert len({key({}), *others}) == 4


def test_with_lora_the_reference_is_the_model_without_its_adapters(recipe: Recipe, tmp_path: Path) -> None:
    model = {"path": recipe("x", LIVE).model.path, "lora": {"rank": 4}}
    for name, algorithm in (("live", LIVE), ("precomputed", LIVE | {"reference": "precomputed"})):
        assert train(recipe(name, algorithm, model=model)) is not None
    live = rows_of(tmp_path / "live")
    assert live[0]["rewards/margins"] == live[0]["preference/kl"] == 0.0, "adapters begin with nothing"
    assert live[-1]["rewards/margins"] > 1e-3
    for mine, theirs in zip(rows_of(tmp_path / "precomputed"), live, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert (tmp_path / "precomputed" / "reference_logprobs").is_dir(), "where no folder is named"


def test_the_reference_can_be_another_model(
    recipe: Recipe, tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    start, other = str(tiny_checkpoint("llama-untied")), str(tiny_checkpoint("qwen2-tied"))
    kto = {"kind": "kto", "beta": 0.5}
    for name, algorithm, sections in (
        ("unset", LIVE, {}),
        ("named", LIVE, {"reference": {"path": start}}),
        ("other", LIVE, {"reference": {"path": other}}),
        ("lora", LIVE, {"reference": {"path": other}, "model": {"path": start, "lora": {"rank": 4}}}),
        ("policy", LIVE, {"model": {"path": other}}),
        ("kto", kto, {"reference": {"path": other}}),
    ):
        assert train(recipe(name, algorithm, steps=2, **sections)) is not None
    unset, named, others, lora, policy, of_kto = (
        rows_of(tmp_path / name) for name in ("unset", "named", "other", "lora", "policy", "kto")
    )
    assert named == unset
    assert unset[0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-6)
    for side in ("chosen", "rejected"):
        apart = unset[0][f"logps/{side}"] - policy[0][f"logps/{side}"]
        assert others[0][f"rewards/{side}"] == pytest.approx(0.5 * apart, rel=1e-4), "beta is 0.5"
    assert abs(others[0]["rewards/margins"]) > 0.01
    # New adapters change nothing: the first step's policy is the same, and so is the reference beside it.
    assert lora[0]["rewards/margins"] == pytest.approx(others[0]["rewards/margins"], abs=1e-4)
    assert abs(of_kto[0]["rewards/chosen"]) > 0.01


def test_references_that_cannot_be_used(
    recipe: Recipe, tmp_path: Path, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> None:
        config = recipe("run", LIVE, reference={"path": str(path)})
        load_data(config, load_tokenizer(config.model))

    with pytest.raises(ConfigError, match=r"^reference\.path='?.*nowhere"):
        load(tmp_path / "nowhere")
    moved = tmp_path / "moved"
    shutil.copytree(tiny_checkpoint("qwen2-tied"), moved)
    tokenizer = json.loads((moved / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (moved / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ConfigError, match=r"^reference\.path=.*moved: its tokenizer differs .* and a reference must read"
    ):
        load(moved)
    short = tmp_path / "short"
    shutil.copytree(tiny_checkpoint("qwen2-tied"), short)
    shape = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": 12}))
    with pytest.raises(
        ConfigError, match=r"an example of \d+ tokens does not fit into the 12 tokens that .*short"
    ):
        load(short)
    for algorithm, said in (
        ({"kind": "orpo"}, r"reference is for algorithm\.kind dpo or kto; it is orpo"),
        (LIVE | {"reference": "precomputed"}, r"algorithm\.reference must be 'live' with reference\.path"),
    ):
        with pytest.raises(ValueError, match=said):
            recipe("run", algorithm, reference={"path": "m"})


def test_held_out_problems_are_answered_beside_a_precomputed_reference(
    recipe: Recipe, tmp_path: Path, tiny_run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sections = {
        "rollout": {"sampling": {"max_response_tokens": 8}},
        "reward": tiny_run["reward"],
        "evaluation": {**tiny_run["evaluation"], "samples_per_prompt": 2},
    }
    config = recipe("run", LIVE | {"reference": "precomputed"}, steps=1, **sections)
    inspect_data(config)
    assert "pairs: 9 rows read; 9 examples kept; 9 rendered" in capsys.readouterr().out
    summary = train(config)
    assert summary is not None
    assert summary["evaluations"].keys() == {"0", "1"}
    before = summary["evaluations"]["0"]["heldout"]["accuracy"]
    [report] = evaluate_checkpoint(EvalConfig.of_training(config, config.model.path)).reports
    assert report.accuracy == before


def test_labels_that_kto_cannot_learn_from(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe("run", {"kind": "kto", "desirable_weight": 2.0})
    data = config.data.train.path

    def load(rows: list[dict[str, Any]]) -> list[Any]:
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_judged(config, load_tokenizer(config.model))

    good, bad = [row for row in SINGLE if row["label"]], [row for row in SINGLE if not row["label"]]
    assert len(load([*good, *bad[:2]])) == 8
    said = capsys.readouterr().out
    assert (
        "= 6, and the paper asks for 1 to 4/3: with desirable_weight=2, undesirable_weight from 4.5 to 6"
        in said
    )
    assert "6 good: " in said
    with pytest.raises(DataError, match=r"single\.jsonl: all 6 answers are good, and KTO needs both kinds"):
        load(good)
    with pytest.raises(DataError, match="all 6 answers are bad"):
        load(bad)
    with pytest.raises(
        DataError, match="all answers are to the same prompt, and KTO compares with answers to other"
    ):
        load([row | {"prompt": "1 plus 1?"} for row in (good[0], bad[1])])

    # Answers are also read after the prompts of others: together they can be longer than any example.
    load([*good, bad[0] | {"prompt": "?", "completion": "no, " * 3}])
    monkeypatch.setattr("reasoner_rl.trainer.loading.context_length", lambda model: 21)
    with pytest.raises(
        ConfigError, match=r"^KTO reads prompts with the answers to other .* of 22 tokens does not fit"
    ):
        load_data(config, load_tokenizer(config.model))
