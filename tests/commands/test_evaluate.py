"""`evaluate_checkpoint`: its report against a count by hand of the responses that it recorded."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from reasoner_rl.commands.evaluate import evaluate_checkpoint
from reasoner_rl.commands.evaluation_tables import report_table
from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.load import dump_recipe
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig
from reasoner_rl.config.rollout import SamplingConfig
from reasoner_rl.distributed.building import build_worker
from reasoner_rl.distributed.local import LocalTransport
from reasoner_rl.errors import ConfigError, DataError, WorkerError
from reasoner_rl.evaluation.result import EvaluationResult, SetReport, differences, read_result
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.rewards.runner import RewardRunner
from reasoner_rl.rollout.engine import GenerationRequest, Generator, StepOutput
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer import evaluate as trainer_evaluate
from reasoner_rl.trainer.evaluate import Evaluator
from reasoner_rl.trainer.loading import load_held_out
from reasoner_rl.types import Rollout


@pytest.fixture
def config(tiny_run: dict[str, Any], tmp_path: Path) -> EvalConfig:
    """Four samples a problem, of two held-out sets: all 5 problems, and 2 of them under another name."""
    path = tiny_run["evaluation"]["datasets"][0]["path"]
    return EvalConfig.model_validate(
        {
            "run": {"output_dir": tmp_path / "run", "seed": 3, "threads": 1},
            "model": tiny_run["model"],
            "rollout": {"sampling": {"max_response_tokens": 6}},
            "reward": tiny_run["reward"] | {"overlong": {}},
            "evaluation": {
                "datasets": [{"path": path}, {"path": path, "name": "two of them", "limit": 2}],
                "samples_per_prompt": 4,
            },
            "logging": {"progress": False},
        }
    )


def recorded(output: Path, name: str) -> list[list[dict[str, Any]]]:
    """The recorded lines of one set, problem by problem."""
    lines = [
        json.loads(line)
        for line in (output / "evaluations" / f"step_000000_{name}.jsonl").open(encoding="utf-8")
    ]
    return [lines[start : start + 4] for start in range(0, len(lines), 4)]


def test_the_report_is_what_the_recorded_responses_say(
    config: EvalConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate_checkpoint(config)
    reports = result.reports
    fn = config.reward.functions[0].fn
    assert f"verifier: {fn}, which decides by itself what counts\n" in capsys.readouterr().out
    assert [report.dataset for report in reports] == ["heldout", "two of them"]
    for report, name, problems in zip(reports, ("heldout", "two of them"), (5, 2), strict=True):
        groups = recorded(tmp_path / "run", name)
        lines = [line for group in groups for line in group]
        assert (report.problems, report.samples_per_problem, len(groups)) == (problems, 4, problems)
        for line in lines:
            vowels = [letter for letter in line["response"] if letter in "aeiou"]
            assert line["accuracy"] == bool(vowels)
            assert line["extracted"] == (vowels[0] if vowels else None)
            assert line["advantage"] is None
        assert report.accuracy == pytest.approx(fmean(line["accuracy"] for line in lines))
        assert 0 < report.accuracy < 1, "nothing could be told from this set"
        assert report.pass_at_k == fmean(any(line["accuracy"] for line in group) for group in groups)
        votes = [Counter(line["extracted"] for line in group if line["extracted"]) for group in groups]
        assert report.majority_at_k == fmean(bool(vote) for vote in votes), "every answer found is right"
        assert report.mean_response_tokens == pytest.approx(fmean(line["tokens"] for line in lines))
        assert report.truncated_share == fmean(line["finish_reason"] == "length" for line in lines)
        assert report.unanswered_share == fmean(line["extracted"] is None for line in lines)
        assert report.ci_low < report.accuracy < report.ci_high
        _check_tables(report, groups)
    assert read_result(tmp_path / "run") == result
    _check_settings(config, result)


def test_an_evaluation_whose_workers_die_keeps_its_parts_and_ends_with_the_same_result(
    config: EvalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stands in for Ray with workers in this process, of which the first die at their second part."""
    parts = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"responses_per_part": 8})}
    )
    reports = evaluate_checkpoint(parts).reports
    started, generate = list[int](), Evaluator.answer

    @contextmanager
    def launch(config: Any, tell: Any, restarts: int = 0) -> Iterator[LocalTransport]:
        started.append(restarts)
        yield LocalTransport(build_worker(config))

    def dying(self: Any, pool: Any, held_out: Any, first: int, end: int) -> Any:
        if started == [0] and first == 2:
            raise WorkerError("worker 1 of 2, on a machine, died in generate: reasons\nAnd more of them")
        return generate(self, pool, held_out, first, end)

    monkeypatch.setattr("reasoner_rl.distributed.launch._launch", launch)
    monkeypatch.setattr(Evaluator, "answer", dying)
    restarted = {
        "cluster": RayClusterConfig(kind="ray", restarts=1),
        "run": parts.run.model_copy(update={"output_dir": tmp_path / "restarted"}),
    }
    capsys.readouterr()
    assert evaluate_checkpoint(parts.model_copy(update=restarted)).reports == reports
    assert started == [0, 1]
    lines = capsys.readouterr().out.splitlines()
    why = "worker 1 of 2, on a machine, died in generate: reasons. Restart 1 of 1: what is finished is kept"
    done = [line.split(":")[0].strip() for line in lines if " parts: " in line]
    assert why in lines
    assert done == [f"{number} of 4 parts" for number in (1, 2, 3, 4)]


def _check_tables(report: SetReport, groups: list[list[dict[str, Any]]]) -> None:
    """The table by problem, pass@k and lengths, counted by hand."""
    for row, group in zip(report.table, groups, strict=True):
        assert row.uid == group[0]["uid"]
        assert row.correct == sum(line["accuracy"] for line in group)
        assert row.accuracy == row.correct / 4
        assert row.unanswered == sum(line["extracted"] is None for line in group)
        assert row.truncated == sum(line["finish_reason"] == "length" for line in group)
        found = [line["extracted"] for line in group if line["extracted"]]
        assert row.majority_answer == (Counter(found).most_common(1)[0][0] if found else None)
    # Of the 6 pairs of 4 samples, those with a right one.
    pairs = [
        any(line["accuracy"] for line in pair)
        for group in groups
        for pair in itertools.combinations(group, 2)
    ]
    assert report.pass_at == {1: report.accuracy, 2: pytest.approx(fmean(pairs)), 4: report.pass_at_k}
    right = [line["tokens"] for group in groups for line in group if line["accuracy"]]
    assert report.lengths["right"].responses == len(right)
    assert report.lengths["right"].mean_tokens == pytest.approx(fmean(right))
    assert sum(lengths.responses for lengths in report.lengths.values()) == 4 * report.problems


def _check_settings(config: EvalConfig, result: EvaluationResult) -> None:
    """Hashes by other means than those of the code."""
    settings, model = result.settings, Path(config.model.path)
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    listed = hashlib.sha256(f"model.safetensors {weights}\n".encode()).hexdigest()
    assert settings.model is not None
    assert (settings.model.path, settings.model.weights_sha256) == (str(model), listed)
    assert (settings.seed, settings.samples_per_problem, settings.greedy) == (3, 4, False)
    assert settings.sampling == config.rollout.sampling.model_dump()
    (verifier,) = settings.verifier.functions
    file = Path(verifier.fn.rpartition(":")[0])
    assert verifier.source_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    data = settings.data["heldout"]
    assert data.sha256 == hashlib.sha256(Path(data.path).read_bytes()).hexdigest()
    assert data.first_prompt == "heldout 0 plus 0?"
    assert settings.data["two of them"].prompts_sha256 != data.prompts_sha256
    problem = hashlib.sha256(b"heldout 0 plus 0?").hexdigest()
    assert result.report("heldout").table[0].problem_sha256 == problem
    assert settings.versions["torch"] == torch.__version__


def in_folder(config: EvalConfig, output: Path, **run: Any) -> EvalConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"output_dir": output, **run})})


def responses(output: Path) -> list[str]:
    return [line["response"] for group in recorded(output, "heldout") for line in group]


def test_another_evaluation_needs_a_folder_of_its_own(config: EvalConfig, tmp_path: Path) -> None:
    first = evaluate_checkpoint(config)
    written = (tmp_path / "run" / "evaluation.json").read_bytes()
    # Parts that are left when the process ends between the result and their removal.
    (tmp_path / "run" / "parts" / "heldout").mkdir(parents=True)
    (tmp_path / "run" / "evaluation_settings.json").write_text("{}")
    assert evaluate_checkpoint(config) == first, "it says what is finished, and does not do it again"
    assert not (tmp_path / "run" / "parts").exists()
    assert not (tmp_path / "run" / "evaluation_settings.json").exists()
    with pytest.raises(ConfigError, match=r"(?s)holds another evaluation.*seed: 3 there, 4 now"):
        evaluate_checkpoint(in_folder(config, tmp_path / "run", seed=4))
    with pytest.raises(ConfigError, match=r"run\.resume=never: .* holds a finished evaluation"):
        evaluate_checkpoint(in_folder(config, tmp_path / "run", resume="never"))
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "recipe.yaml").write_text("recipe: online\n")
    with pytest.raises(ConfigError, match="holds a run that is no evaluation"):
        evaluate_checkpoint(in_folder(config, tmp_path / "trained"))
    assert (tmp_path / "run" / "evaluation.json").read_bytes() == written

    other = evaluate_checkpoint(in_folder(config, tmp_path / "other", seed=4))
    assert responses(tmp_path / "other") != responses(tmp_path / "run")
    again = evaluate_checkpoint(in_folder(config, tmp_path / "again"))
    assert responses(tmp_path / "again") == responses(tmp_path / "run")
    assert again.reports == first.reports != other.reports
    assert differences(first.settings, other.settings) == [("seed", "3", "4")]


def test_an_interrupted_evaluation_goes_on_where_it_was_and_ends_the_same(
    config: EvalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 2 problems: of 5 the first 2 are finished when the process is interrupted in the second part."""
    evaluation = config.evaluation.model_copy(update={"responses_per_part": 9})
    config = config.model_copy(update={"evaluation": evaluation})
    whole = evaluate_checkpoint(in_folder(config, tmp_path / "whole"))
    asked: list[list[str]] = []
    generate = trainer_evaluate.generate_groups

    def interrupted(prompts: Any, *others: Any, **named: Any) -> Any:
        asked.append([prompt.uid for prompt in prompts])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return generate(prompts, *others, **named)

    monkeypatch.setattr(trainer_evaluate, "generate_groups", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_checkpoint(config)
    assert not (tmp_path / "run" / "evaluation.json").exists()
    with pytest.raises(ConfigError, match=r"(?s)holds another evaluation.*seed: 3 there, 4 now"):
        evaluate_checkpoint(in_folder(config, tmp_path / "run", seed=4))
    with pytest.raises(ConfigError, match="holds an evaluation that is not finished"):
        evaluate_checkpoint(in_folder(config, tmp_path / "run", resume="never"))
    # On more engines the parts would be larger; those that are there keep their size.
    evaluation = config.evaluation.model_copy(update={"responses_per_part": 400})
    resumed = evaluate_checkpoint(config.model_copy(update={"evaluation": evaluation}))
    uids = [f"heldout/{number}" for number in range(5)]
    assert asked == [uids[:2], uids[2:4], uids[2:4], uids[4:], ["two of them/0", "two of them/1"]]
    assert resumed.reports == whole.reports
    assert responses(tmp_path / "run") == responses(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert left == {"evaluation.json", "evaluations", "recipe.yaml", "run.json"}


def test_a_real_interruption_says_what_the_same_command_resumes_from(
    config: EvalConfig, tmp_path: Path, repository: Path
) -> None:
    """Ctrl-C in a process of its own, while the verifier is at the second part."""
    verifier = tmp_path / "slow.py"
    verifier.write_text(
        "import time, pathlib\n"
        "def f(data_source, solution_str, ground_truth, extra_info):\n"
        "    while ground_truth == '4' and not pathlib.Path(__file__).with_name('go').exists(): time.sleep(0.05)\n"
        "    return {'score': 1.0, 'acc': 'e' in solution_str, 'pred': solution_str[:1]}\n"
    )
    tree = config.model_dump(mode="json")
    tree["reward"]["functions"] = [{"fn": f"{verifier}:f"}]
    tree["reward"]["timeout_seconds"] = 300
    tree["evaluation"] |= {"responses_per_part": 8, "datasets": tree["evaluation"]["datasets"][:1]}
    slow = EvalConfig.model_validate(tree)
    recipe = tmp_path / "slow.yaml"
    recipe.write_text(dump_recipe(slow))
    command = [sys.executable, "-m", "reasoner_rl.cli", "eval", str(recipe)]
    parts = tmp_path / "run" / "parts" / "heldout"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=repository) as process:
        try:
            while process.poll() is None and not (parts / "part_00000.parquet").exists():
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()  # leaving the block waits for it
    assert process.returncode == 130, told
    assert told.endswith(
        "interrupted; the same command resumes from the parts of responses that are finished, if there are any\n"
    )
    assert [path.name for path in parts.iterdir()] == ["part_00000.parquet"]
    kept = (parts / "part_00000.parquet").read_bytes()
    (parts / "part_00000.parquet").write_bytes(kept[:100])
    with pytest.raises(DataError, match=r"part_00000\.parquet: cannot be read.*Delete"):
        evaluate_checkpoint(slow)
    (parts / "part_00000.parquet").write_bytes(kept)
    (tmp_path / "go").touch()
    resumed = evaluate_checkpoint(slow)
    assert resumed.reports == evaluate_checkpoint(in_folder(slow, tmp_path / "whole")).reports


def test_greedy_is_one_response_and_is_called_so(
    config: EvalConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = config.model_dump()
    tree["rollout"]["sampling"]["temperature"] = 0
    tree["evaluation"] |= {"samples_per_prompt": 1, "datasets": tree["evaluation"]["datasets"][1:]}
    result = evaluate_checkpoint(EvalConfig.model_validate(tree))
    assert result.settings.greedy
    assert "greedy decoding: one response per problem" in " ".join(capsys.readouterr().out.split())
    columns, rows = report_table(result)
    assert dict(zip(columns, rows[0], strict=True))["samples"] == "1 (greedy)"
    assert "pass@1" not in columns


def test_the_evaluation_of_a_training_recipe_keeps_to_a_folder_of_its_own(
    tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    run = {**tiny_run["run"], "output_dir": tmp_path / "run"}
    online = OnlineConfig.model_validate({**tiny_run, "run": run})
    config = EvalConfig.of_training(online, "weights")
    assert config.model.path == "weights"
    assert config.run.output_dir == tmp_path / "run" / "eval"
    assert config.rollout.sampling == online.rollout.sampling
    empty = OnlineConfig.model_validate({**tiny_run, "run": run, "evaluation": {}})
    with pytest.raises(ConfigError, match=r"evaluation\.datasets is empty"):
        EvalConfig.of_training(empty, "weights")


def test_evaluation_in_training_has_its_own_sampling_and_length(
    tiny_run: dict[str, Any], tmp_path: Path
) -> None:
    """12 response tokens in training, punished from 8 on; 24 in evaluation, so punished from 20 on."""
    online = OnlineConfig.model_validate(
        {
            **tiny_run,
            "run": {**tiny_run["run"], "output_dir": tmp_path / "run"},
            "evaluation": {**tiny_run["evaluation"], "sampling": {"max_response_tokens": 24}},
        }
    )
    tokenizer = load_tokenizer(online.model)
    held_out = load_held_out(online.evaluation.datasets, online.data.prompts, tokenizer)
    with RewardRunner(online.reward, online.rollout.sampling.max_response_tokens) as rewards:
        evaluator = Evaluator(online, held_out, rewards, RolloutRecorder(tmp_path / "run", "all"))
        evaluator.evaluate(Repeater(20 * ("a",) + 2 * ("b",)), step=0)
    lines = (tmp_path / "run" / "evaluations" / "step_000000_heldout.jsonl").read_text().splitlines()
    assert {json.loads(line)["components"]["overlong"] for line in lines} == {-0.5}


class Repeater(Generator):
    """Gives the same response to every prompt."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._rollout = Rollout(tuple(map(ord, tokens)), (-1.0,) * len(tokens), "stop", 0, "".join(tokens))

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingConfig) -> None:
        assert sampling.max_response_tokens == 24
        self._finished = [(request.number, [self._rollout] * request.samples) for request in requests]

    def step(self) -> StepOutput:
        return StepOutput(self._finished)

    def interrupt(self) -> StepOutput:
        raise NotImplementedError

    def cancel(self) -> None:
        pass
