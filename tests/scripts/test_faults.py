"""A few trials of each kind of scripts/bench/faults.py, with real processes; and that trials find what is wrong."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.prompts.sampler import OrderedSampler
from reasoner_rl.trainer import resume

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
from fault_injection import campaign, disks
from fault_injection.bench import Bench, Outcome, Trial
from fault_injection.campaign import KINDS, Campaign, Kind, share_of
from fault_injection.comparing import contents, nearly_equal
from fault_injection.moments import Operation
from fault_injection.processes import TrialFailed


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Where trials are made; their undisturbed runs are made once."""
    return Bench(tmp_path_factory.mktemp("faults"), seed=1)


def inject(bench: Bench, text: str) -> Outcome:
    trial = Trial.parse(text)
    return KINDS[trial.kind].inject(bench, trial)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trial", "least"),
    [
        ("kill:online-fsdp:0", 1),
        ("kill:offline-sft:1", 1),
        ("signal:offline-sft:0", 0),  # the run may have ended before
        ("signal:offline-sft:1", 0),
        ("flip:offline-sft:0", 1),
        ("race:offline-sft:1", 1),
        ("verifiers:online-fsdp:0", 1),
    ],
)
def test_a_fault(bench: Bench, trial: str, least: int) -> None:
    outcome = inject(bench, trial)
    assert outcome.faults >= least, outcome


@pytest.mark.slow
@pytest.mark.skipif(not disks.can_mount(), reason="a small disk needs root, to mount a tmpfs")
@pytest.mark.parametrize(
    "kind", ["open metrics.jsonl", "open checkpoints/.partial_N/.driver.json.tmp", "prepare"]
)
def test_a_full_disk(bench: Bench, kind: str) -> None:
    run = "prepare" if kind == "prepare" else "offline-sft"
    found = disks.kinds_of_writes(bench.reference(run).operations)
    numbers = [number for number, each in enumerate(found) if each == kind] or [len(found) // 2]
    assert inject(bench, f"disk:{run}:{numbers[0]}").faults == 1


def forget_the_order() -> None:
    """A mistake: a resumed run begins the order of its prompts or examples anew."""
    OrderedSampler.restore = lambda self, state: None  # type: ignore[method-assign]


def believe_checkpoints() -> None:
    """A mistake: hashes are not compared."""
    resume.verify = lambda folder: None


def share_folders() -> None:
    """A mistake: nobody is kept out."""
    fcntl.flock = lambda file, operation: None  # type: ignore[assignment]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "trial", "found"),
    [
        (
            forget_the_order,
            "flip:offline-sft:0",
            "the finished run differs from the undisturbed one: .*differs",
        ),
        (believe_checkpoints, "flip:offline-sft:0", "the command ended with status|does not name the file"),
        (share_folders, "race:offline-sft:0", "of [23] commands"),
    ],
)
def test_a_mistake_is_found(bench: Bench, mistake: Any, trial: str, found: str) -> None:
    mistaken = Bench(bench.folder, bench.seed, mistakes=(mistake,))
    with pytest.raises(TrialFailed, match=found):
        inject(mistaken, trial)


def counting(outcomes: Sequence[int]) -> tuple[list[str], Kind]:
    """A kind of fault of which the trials have so many effects, one after the other; -1: a trial that fails."""
    made: list[str] = []

    def trial(bench: Bench, trial: Trial) -> Outcome:
        made.append(str(trial))
        if outcomes[trial.number] < 0:
            raise TrialFailed("as it should not")
        return Outcome(outcomes[trial.number], "as it should")

    return made, Kind(trial, ("online-fsdp", "offline-sft"), 5)


def test_a_campaign_makes_as_many_trials_as_it_takes_and_goes_on_where_it_was(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, kind = counting([2, 0, -1, 2, 9])
    monkeypatch.setattr(campaign, "KINDS", {"kill": kind})
    own, said = Bench(tmp_path, 1), list[str]()
    first = Campaign(own, {"kill": 5}, 100.0, said.append)
    first.run(["kill"], 1)
    expected = [f"kill:online-fsdp:{n}" for n in range(4)] + [f"kill:offline-sft:{n}" for n in range(1)]
    assert made == expected, "three faults of one run, two of the other"
    assert [record.trial for record in first.failed] == ["kill:online-fsdp:2"]
    assert any(line.startswith("FAILED kill:online-fsdp:2") for line in said)
    assert first.table()[1][:5] == ["kill", "online-fsdp", "4", "4", "1"]
    made.clear()
    again = Campaign(own, {"kill": 12}, 100.0, said.append)
    again.run(["kill"], 1)
    assert made == ["kill:online-fsdp:4", *(f"kill:offline-sft:{n}" for n in (1, 2, 3, 4))]
    made.clear()
    late = Campaign(own, {"kill": 100}, -1.0, said.append)
    late.run(["kill"], 1)
    assert made == []
    assert [text.partition(" from")[0] for text in late.left_out] == ["kill:online-fsdp", "kill:offline-sft"]
    assert len(json.loads((tmp_path / "faults.json").read_text())["trials"]) == 10
    with pytest.raises(SystemExit, match="is of seed 1, not 2"):
        Campaign(Bench(tmp_path, 2), {}, 1.0, said.append)


def test_shares_add_up() -> None:
    runs = KINDS["kill"].runs
    assert sum(share_of(100, runs, run) for run in runs) == 100
    assert {share_of(100, runs, run) for run in runs} == {14, 15}


def test_what_is_compared(tmp_path: Path) -> None:
    assert Operation("open", "rollouts/step_000012.jsonl").kind == "open rollouts/step_N.jsonl"
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "time/step": 2.0}\n')
    assert contents(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
    (tmp_path / "a.json").write_text('{"seconds": 3, "reports": [{"seconds": 1, "accuracy": 0.25}]}')
    assert contents(tmp_path / "a.json") == {"reports": [{"accuracy": 0.25}]}
    assert nearly_equal([{"a": 1.0, "b": "x"}], [{"a": 1.00001, "b": "x"}])
    for other in ([{"a": 1.001, "b": "x"}], [{"a": 1.0, "b": "y"}], [{"a": 1.0}], []):
        assert not nearly_equal([{"a": 1.0, "b": "x"}], other)
