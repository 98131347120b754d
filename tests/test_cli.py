"""The command line as a user meets it: every mistake is one message on standard error and exit status 2."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasoner_rl import cli
from reasoner_rl.config.load import load_recipe, shipped_recipes
from reasoner_rl.errors import WorkerError
from reasoner_rl.observability.glossary import every_metric


@dataclass(frozen=True)
class Outcome:
    """What came of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def reasoner_rl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """A function that runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["reasoner-rl", *arguments])
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit:
            cli.main()
        return Outcome(exit.value.code or 0, out.getvalue(), err.getvalue())  # type: ignore[arg-type]

    return run


def message(outcome: Outcome) -> str:
    """The one line of a user's error."""
    assert outcome.status == 2, outcome
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err.removeprefix("error: ").strip()


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Path:
    """A small recipe of kind online that could be trained."""
    (tmp_path / "problems.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n')
    tree: dict[str, Any] = {
        "recipe": "online",
        "run": {"output_dir": str(tmp_path / "run"), "steps": 1, "threads": 1},
        "model": {"path": str(tiny_checkpoint("qwen2-tied"))},
        "data": {"train": {"path": str(tmp_path / "problems.jsonl")}},
        "rollout": {"responses_per_prompt": 2, "sampling": {"max_response_tokens": 4}},
        "reward": {"workers": 1},
        "batch": {"prompts_per_step": 1, "prompts_per_update": 1},
        "logging": {"tensorboard": False},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize(
    "command",
    [
        *("train", "sft", "eval", "config show"),
        *("data inspect", "data make-preferences", "data make-sft", "data difficulty"),
    ],
)
def test_every_command_explains_itself(command: str, reasoner_rl: Callable[..., Outcome]) -> None:
    outcome = reasoner_rl(*command.split(), "--help")
    assert outcome.status == 0
    assert f"reasoner-rl {command}" in outcome.out
    assert "RECIPE" in outcome.out
    assert "KEY.PATH=VALUE" in outcome.out
    assert outcome.err == ""


def test_help_of_the_whole(reasoner_rl: Callable[..., Outcome]) -> None:
    outcome = reasoner_rl("--help")
    assert outcome.status == 0
    for command in ("train", "sft", "eval", "data", "config"):
        assert command in outcome.out


def test_a_missing_argument_and_an_unknown_command(reasoner_rl: Callable[..., Outcome]) -> None:
    for arguments in (("train",), ("trian", "quickstart"), ("config", "keys", "--kyes")):
        outcome = reasoner_rl(*arguments)
        assert outcome.status == 2
        assert "Traceback" not in outcome.err
        assert outcome.err


def test_a_verifier_that_hangs_or_ends_its_process_does_not_hang_the_start(
    reasoner_rl: Callable[..., Outcome], recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(
        "import os, time\ndef hang(**_): time.sleep(600)\ndef leave(**_): os._exit(0)\n"
    )
    for name, said in (
        ("hang", "took longer than twice reward.timeout_seconds=0.5 on two test calls"),
        ("leave", "ended its process on a test call (exit status 0)"),
    ):
        functions = f"reward.functions=[{{fn: bad.py:{name}}}]"
        outcome = reasoner_rl("train", str(recipe), functions, "reward.timeout_seconds=0.5")
        assert f"reward function 'bad.py:{name}' {said}" in message(outcome)


def test_config_lists_recipes(reasoner_rl: Callable[..., Outcome]) -> None:
    outcome = reasoner_rl("config")
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    kinds = {line.split()[0]: line.split()[1] for line in lines}
    assert (kinds["aime"], kinds["gspo_qwen2.5_1.5b"], kinds["kto_quickstart"]) == (
        "eval",
        "online",
        "preference",
    )
    assert any(
        line.endswith("DAPO on chains of additions modulo 10, with all four techniques on") for line in lines
    )
    assert outcome.out == reasoner_rl("config", "list").out


def test_config_resolves_a_recipe_to_one_that_means_the_same(
    reasoner_rl: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = reasoner_rl("config", "show", "quickstart", "run.seed=7", "algorithm.loss.clip_high=0.3")
    assert outcome.status == 0
    (tmp_path / "resolved.yaml").write_text(outcome.out)
    resolved = load_recipe(tmp_path / "resolved.yaml")
    assert resolved == load_recipe("quickstart", ["run.seed=7", "algorithm.loss.clip_high=0.3"])
    assert resolved.run.seed == 7
    assert f"\n# {'responses per step':<32} " in outcome.out


@pytest.mark.parametrize("kind", ["online", "sft", "eval"])
def test_config_lists_the_keys_of_a_kind(kind: str, reasoner_rl: Callable[..., Outcome]) -> None:
    outcome = reasoner_rl("config", "keys", kind)
    assert outcome.status == 0
    assert "run.output_dir" in outcome.out
    assert ("algorithm.loss.clip_high" in outcome.out) == (kind == "online")
    assert "[dapo]" not in outcome.out


def test_config_lists_the_metrics(reasoner_rl: Callable[..., Outcome]) -> None:
    lines = reasoner_rl("config", "metrics").out.splitlines()
    assert [line.split(" ")[0] for line in lines] == [doc.key for doc in every_metric()]
    assert max(map(len, lines)) <= 100
    found = reasoner_rl("config", "metrics", "REWARD/", "second").out.splitlines()
    assert [line.split(" ")[0].removeprefix("reward/second_opinion") for line in found] == [
        *("s", "_disagreements", "_failures")
    ]
    assert (
        found[0].split("  ", 1)[1].lstrip().startswith("(responses)  A second verifier judged the response")
    )
    assert reasoner_rl("config", "metrics", "train/lr", "--long").out.splitlines() == [
        "Optimizer. Of the model that is trained. With PPO that is the policy; the critic's stand under",
        "critic/.",
        "train/lr",
        "    (number, mean over the optimizer updates of the step)",
        "    Learning rate of the update, as the schedule has it.",
    ]


def test_settings_of_verl_and_trl_become_a_recipe(
    reasoner_rl: Callable[..., Outcome], tmp_path: Path
) -> None:
    grouped = "algorithm.adv_estimator=grpo"
    outcome = reasoner_rl("config", "from-verl", grouped, "actor_rollout_ref.rollout.n=8", "a.b=1")
    assert outcome.status == 0
    assert outcome.err.endswith(" 1 not understood, 1 to do by hand; the comments say which\n")
    (tmp_path / "made.yaml").write_text(outcome.out)
    assert load_recipe(tmp_path / "made.yaml").rollout.responses_per_prompt == 8  # type: ignore[union-attr]
    (tmp_path / "grpo.yaml").write_text("num_generations: 4\nmax_steps: 10\n")
    command = ("config", "from-trl", "grpo.yaml", "--devices", "2", "--out", "out.yaml")
    outcome = reasoner_rl(*command)
    assert (outcome.status, outcome.out) == (0, "")
    assert outcome.err.startswith("out.yaml: ")
    made: Any = load_recipe(tmp_path / "out.yaml")
    assert (made.batch.prompts_per_step, made.cluster.kind) == (4, "ray")
    assert "--out out.yaml: exists already" in message(reasoner_rl(*command))
    uneven = reasoner_rl("config", "from-verl", grouped, "data.train_batch_size=10")
    assert (uneven.status, uneven.out) == (2, "")
    assert "make no recipe that can run" in uneven.err
    assert "256 does not divide 10" in uneven.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("train", "quickstrat"), ("unknown recipe 'quickstrat'", "Did you mean 'quickstart'?")),
        (("train", "./none.yaml"), ("recipe file none.yaml does not exist",)),
        (("config", "show", "quickstart", "run.sed=3"), ("run.sed", "Did you mean 'run.seed'?")),
        (("config", "show", "quickstart", "run.seed=-3"), ("run.seed", "-3", "greater than or equal to 0")),
        (("config", "show", "quickstart", "run.seed=many"), ("run.seed", "many", "integer")),
        (("config", "show", "quickstart", "run.seed"), ("override 'run.seed': must read key.path=value",)),
        (
            ("config", "show", "quickstart", "algorithm.kind=dapoo"),
            ("algorithm.kind", "Did you mean 'dapo'?"),
        ),
        (("config", "keys", "onlin"), ("KIND 'onlin'", "reward_model, iterated, eval")),
        (("config", "quickstart"), ("`reasoner-rl config quickstart`", "`reasoner-rl config show RECIPE`")),
        (("config", "--keys", "online"), ("`reasoner-rl config keys online` now",)),
        (("config", "--keys", "online", "kl"), ("`reasoner-rl config keys online` now",)),
        (("config", "keys", "sft", "clip_high"), ("no key of kind sft has 'clip_high'",)),
        (("config", "metrics", "clip", "fricton"), ("no metric has 'clip' and 'fricton' in its name",)),
        (
            ("config", "lst"),
            ("must be one of list, show, keys, metrics, from-verl, from-trl", "Did you mean 'list'?"),
        ),
        (
            ("train", "quickstart_sft"),
            ("`reasoner-rl train`", "online, preference, reward_model or iterated", "of kind 'sft'"),
        ),
        (("sft", "quickstart"), ("`reasoner-rl sft`", "kind sft", "of kind 'online'")),
        (("eval", "quickstart_sft"), ("evaluation.datasets is empty",)),
        (
            ("train", "aime"),
            ("`reasoner-rl train`", "online, preference, reward_model or iterated", "of kind 'eval'"),
        ),
    ],
)
def test_mistakes_in_recipes(
    arguments: tuple[str, ...], parts: tuple[str, ...], reasoner_rl: Callable[..., Outcome]
) -> None:
    text = message(reasoner_rl(*arguments))
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("command", "override", "parts"),
    [
        ("train", "model.path=./none", ("model.path='./none'", "no such folder")),
        ("train", "model.path=run/none", ("model.path='run/none'", "the hub, and there is no such folder")),
        (
            "train",
            "model.chat_template=latin.txt",
            ("model.chat_template=latin.txt: cannot be read: 'utf-8'",),
        ),
        ("data inspect", "model.path=./small.yaml", ("model.path='./small.yaml' is a file",)),
        ("train", "data.train.path=problem.jsonl", ("problem.jsonl does not exist", "'problems.jsonl'")),
        ("data inspect", "data.train.path=small.yaml", ("small.yaml", ".parquet or .jsonl")),
        ("train", "data.train.path=.", ("is a folder",)),
        (
            "data inspect",
            "data.train.columns.answer=gold",
            ("row 1: no column 'gold'", "Say which column it is: data.train.columns.answer=NAME"),
        ),
        (
            "data inspect",
            "evaluation.datasets=[{path: problems.jsonl, columns: {problem: [problem, ask]}}]",
            ("no column 'ask'", "evaluation.datasets.0.columns.problem=NAME"),
        ),
        ("train", "data.train.start=5", ("no problems are left after start=5",)),
        (
            "train",
            "data.prompts={max_tokens: 2, overlong: drop}",
            ("no prompt is left of 1", "longer than 2 tokens, data.prompts.max_tokens"),
        ),
        ("train", "data.prompts.apply_chat_template=true", ("the tokenizer has no chat template",)),
        ("train", "run.output_dir=small.yaml", ("run.output_dir=small.yaml", "File exists")),
        ("train", "run.output_dir=small.yaml/run", ("run.output_dir=small.yaml/run", "Not a directory")),
        ("data make-sft --out small.yaml", "run.seed=1", ("--out=small.yaml", "File exists")),
        ("data make-preferences --out small.yaml/made", "run.seed=1", ("--out=small.yaml/made", "Not a dir")),
        ("train", "reward.functions.0.fn=reward_fns:compute", ("has no 'compute'", "'compute_score'")),
        ("train", "reward.functions.0.fn=./mine.py:f", ("there is no file 'mine.py'",)),
        ("train", "reward.functions.0.parameters.nosuch=1", ("raised on a test call", "'nosuch'")),
        ("eval", "run.seed=1", ("evaluation.datasets is empty",)),
        ("eval", "evaluation.datasets=[{path: none.jsonl}]", ("none.jsonl does not exist",)),
        ("train", "reward.functions.0.parameters.wrong_score=bad", ("wrong_score must be a finite number",)),
        ("train", "reward.timeout_seconds=.inf", ("reward.timeout_seconds", "finite number")),
        (
            *("data inspect", "rollout.sampling.max_response_tokens=1000"),
            ("a response of up to 1000 do not fit into the 256 tokens",),
        ),
        ("data inspect", "reward.functions.0.parameters.nosuch=1", ("raised on a test call", "'nosuch'")),
        (
            "data inspect",
            "data.train.path=huge.jsonl",
            ("huge.jsonl, row 1: cannot be read: Exceeds the limit",),
        ),
        (
            "data inspect",
            "data.train.path=surrogate.jsonl",
            ("surrogate.jsonl, row 1: problem must be text",),
        ),
        (
            *("train", "training.backend={kind: megatron, tensor_parallel: 2}"),
            ("must divide the number of workers (cluster.nodes x workers_per_node): 2 does not divide 1",),
        ),
    ],
)
def test_mistakes_that_show_when_a_command_starts(
    command: str, override: str, parts: tuple[str, ...], recipe: Path, reasoner_rl: Callable[..., Outcome]
) -> None:
    (recipe.parent / "latin.txt").write_bytes(b"\xe9")
    (
        recipe.parent / "run"
    ).mkdir()  # beside it, `run/none` could be meant as a path, and is no less a name on the hub
    (recipe.parent / "huge.jsonl").write_text('{"problem": "p", "answer": ' + "9" * 5000 + "}")
    (recipe.parent / "surrogate.jsonl").write_text('{"problem": "a\\ud800", "answer": "1"}')
    text = message(reasoner_rl(*command.split(), str(recipe), override))
    for part in parts:
        assert part in text


def test_data_tells_what_is_in_the_files(recipe: Path, reasoner_rl: Callable[..., Outcome]) -> None:
    outcome = reasoner_rl("data", "inspect", str(recipe))
    assert (outcome.status, outcome.err) == (0, "")
    assert "problems: 1 rows read, 0 duplicates dropped, 1 problems kept" in outcome.out
    assert "1+1?" in outcome.out
    assert (
        "verifier: reward_fns:compute_score\n  data source 'problems' (no rule of its own) -> " in outcome.out
    )
    assert "  prompts per step  " in outcome.out


@pytest.mark.parametrize("kind", ["sft", "preference"])
def test_data_reads_the_problems_to_evaluate_too(
    kind: str, recipe: Path, reasoner_rl: Callable[..., Outcome]
) -> None:
    row = {"problem": "2+2?", "answer": "4", "solution": "It is 4."}
    row |= {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    (recipe.parent / "learn.jsonl").write_text(json.dumps(row) + "\n")
    tree = yaml.safe_load(recipe.read_text())
    train = {"path": "learn.jsonl"} | ({"columns": {"solution": "solution"}} if kind == "sft" else {})
    whole = {"recipe": kind, "run": tree["run"], "model": tree["model"], "data": {"train": train}}
    whole |= {"rollout": {"sampling": {"max_response_tokens": 4}}}
    recipe.write_text(yaml.safe_dump(whole))
    outcome = reasoner_rl("data", "inspect", str(recipe), "evaluation.datasets=[{path: problems.jsonl}]")
    assert (outcome.status, outcome.err) == (0, "")
    assert "learn: 1 rows read" in outcome.out
    assert "problems: 1 rows read, 0 duplicates dropped, 1 problems kept" in outcome.out
    missing = reasoner_rl("data", "inspect", str(recipe), "evaluation.datasets=[{path: problem.jsonl}]")
    assert "problem.jsonl does not exist. Did you mean 'problems.jsonl'?" in message(missing)


def test_the_former_way_to_see_data_says_the_present_one(reasoner_rl: Callable[..., Outcome]) -> None:
    text = message(reasoner_rl("data", "quickstart"))
    assert "`reasoner-rl data inspect RECIPE`" in text
    assert "Did you mean 'inspect'?" in message(reasoner_rl("data", "inspekt", "quickstart"))
    text = message(reasoner_rl("data", "make-sft", "quickstart_sft", "--out", "x"))
    assert (
        "`reasoner-rl data make-sft` needs a recipe of kind online; quickstart_sft is of kind 'sft'" in text
    )


def test_data_reads_the_examples_of_ptx_too(recipe: Path, reasoner_rl: Callable[..., Outcome]) -> None:
    examples = recipe.parent / "worked.jsonl"
    examples.write_text('{"problem": "2+2?", "answer": "4", "solution": "It is 4."}\n')
    ptx = f"{{coefficient: 0.1, examples_per_update: 1, data: {{train: {{path: {examples}}}}}}}"
    said = message(reasoner_rl("data", "inspect", str(recipe), f"algorithm.ptx={ptx}"))
    assert said.startswith("algorithm.ptx: problem worked/0 (row 1) has no solution")
    column = "algorithm.ptx.data.train.columns.solution=solution"
    outcome = reasoner_rl("data", "inspect", str(recipe), f"algorithm.ptx={ptx}", column)
    assert (outcome.status, outcome.err) == (0, "")
    assert "worked: 1 rows read" in outcome.out
    assert "It is 4." in outcome.out


def test_an_interruption_says_how_to_resume(
    recipe: Path, reasoner_rl: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reasoner_rl.trainer.train.train", interrupted)
    outcome = reasoner_rl("train", str(recipe))
    assert outcome.status == 130
    assert (
        outcome.err == "interrupted; the same command resumes from the newest checkpoint, if there is one\n"
    )
    monkeypatch.setattr("reasoner_rl.commands.make_data.sampled_groups", lambda *_: interrupted())
    for command in ("make-preferences", "make-sft"):
        outcome = reasoner_rl("data", command, str(recipe), "--out", "made")
        assert outcome.status == 130
        assert outcome.err == (
            "interrupted; the same command resumes from the parts of answers that are finished, if there are any\n"
        )
    monkeypatch.setattr("reasoner_rl.commands.evaluate.evaluate_checkpoint", interrupted)
    outcome = reasoner_rl("eval", str(recipe), "evaluation.datasets=[{path: problems.jsonl}]")
    resumes = "the same command resumes from the parts of responses that are finished, if there are any"
    assert (outcome.status, outcome.err) == (130, f"interrupted; {resumes}\n")
    monkeypatch.setattr("reasoner_rl.commands.rescore.rescore_result", lambda *_, **__: interrupted(None))
    outcome = reasoner_rl("eval", "rescore", "run", "--fn", "a:b", "--out", "other")
    assert (outcome.status, outcome.err) == (130, "interrupted\n"), "which starts anew"
    monkeypatch.setattr("reasoner_rl.commands.compare_sets.compare_sets", interrupted)
    outcome = reasoner_rl("data", "contamination", "train.jsonl", "--against", "test.jsonl")
    assert (outcome.status, outcome.err) == (130, "interrupted\n"), "which samples no answers"


def test_workers_that_fail_say_what_is_resumed(
    recipe: Path, reasoner_rl: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: Any) -> None:
        raise WorkerError("rank 1 died")

    monkeypatch.setattr("reasoner_rl.trainer.train.train", failed)
    monkeypatch.setattr("reasoner_rl.commands.make_data.sampled_groups", failed)
    monkeypatch.setattr("reasoner_rl.commands.evaluate.evaluate_checkpoint", failed)
    problems = "evaluation.datasets=[{path: problems.jsonl}]"
    for arguments, remedy in (
        (("train", str(recipe)), "The same command resumes from the newest checkpoint, if there is one\n"),
        (
            ("data", "make-sft", str(recipe), "--out", "made"),
            "The same command resumes from the parts of answers that are finished, if there are any\n",
        ),
        (
            ("eval", str(recipe), problems),
            "The same command resumes from the parts of responses that are finished, if there are any\n",
        ),
    ):
        outcome = reasoner_rl(*arguments)
        assert (outcome.status, outcome.err) == (3, f"error: rank 1 died\n{remedy}")


def test_a_run_that_diverges_says_so(recipe: Path, reasoner_rl: Callable[..., Outcome]) -> None:
    (recipe.parent / "odd.py").write_text(
        "def f(solution_str, **_): return float(sum(map(ord, solution_str)) % 7)\n"
    )
    outcome = reasoner_rl(
        "train",
        str(recipe),
        "run.steps=3",
        "reward.functions.0.fn=./odd.py:f",
        "algorithm.kind=rloo",
        "training.optimizer={lr: 1.0e+30, grad_clip: null}",
    )
    assert outcome.status == 1
    assert outcome.err.startswith("error: the model's probabilities are NaN"), outcome.err
    assert "a lower training.optimizer.lr" in outcome.err


def test_tables_in_files_are_not_squeezed(
    recipe: Path, reasoner_rl: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = tmp_path / "problems.jsonl"
    outcome = reasoner_rl("eval", str(recipe), f"evaluation.datasets=[{{path: {path}, name: all}}]")
    assert (outcome.status, outcome.err) == (0, "")
    assert "95 % interval" in outcome.out
    assert (tmp_path / "run" / "eval" / "evaluation.json").exists()


def test_a_trained_recipe_is_evaluated_with_the_weights_it_made(
    recipe: Path,
    reasoner_rl: Callable[..., Outcome],
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    base, final = tiny_checkpoint("qwen2-tied"), tmp_path / "run" / "final"
    checkpoints = final.parent / "checkpoints"

    def evaluated(*overrides: str, said: str = "") -> str:
        datasets = f"evaluation.datasets=[{{path: {tmp_path / 'problems.jsonl'}, name: all}}]"
        out = tmp_path / f"result_{len(list(tmp_path.glob('result_*')))}"
        outcome = reasoner_rl("eval", str(recipe), datasets, *overrides, "--out", str(out))
        assert (outcome.status, outcome.err) == (0, "")
        path = json.loads((out / "evaluation.json").read_text())["settings"]["model"]["path"]
        assert f"weights: {path}\n" in outcome.out
        hint = f"model.path={final.parent} evaluates the newest checkpoint"
        assert (hint in outcome.out) == bool(said)
        assert f"{said}: {path} is evaluated; {hint}" in outcome.out or not said
        return str(path)

    assert evaluated() == str(base)
    (checkpoints / "step_000002").mkdir(parents=True)
    assert evaluated(said="has no final weights yet") == str(base)
    shutil.copytree(tiny_checkpoint("llama-untied"), final)
    (final.parent / "summary.json").write_text('{"steps": 2}')
    assert evaluated() == str(final)
    (checkpoints / "step_000003").mkdir()
    assert evaluated(said="may have been trained further since its final weights were written") == str(final)
    assert evaluated(f"model.path={base}") == str(base)


def test_a_stopped_run_is_no_success(
    recipe: Path, reasoner_rl: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoner_rl.trainer.train.train", lambda *_: None)
    assert reasoner_rl("train", str(recipe)).status == 130
    monkeypatch.setattr("reasoner_rl.trainer.train.train", lambda *_: None)
    assert reasoner_rl("sft", "quickstart_sft").status == 130


def test_errors_of_the_system_have_a_status_and_a_line(
    reasoner_rl: Callable[..., Outcome], recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / "run.json").mkdir(parents=True)
    outcome = reasoner_rl("train", str(recipe))
    assert outcome.status == 4
    assert outcome.err.startswith("error: the system says: Is a directory: ")
    assert "run/run.json (summary.py, line " in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_interruption_that_a_library_has_wrapped_is_one(
    reasoner_rl: Callable[..., Outcome], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.checkpoint.api import CheckpointException

    def interrupted(*_: Any) -> None:
        raise CheckpointException("rank 0", {0: (KeyboardInterrupt(), None)})  # type: ignore[dict-item]

    monkeypatch.setattr("reasoner_rl.trainer.train.train", interrupted)
    outcome = reasoner_rl("train", str(recipe))
    assert (outcome.status, outcome.err.count("\n")) == (130, 1)
    assert outcome.err.startswith("interrupted; the same command resumes")
