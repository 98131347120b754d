"""`reasoner-rl verify`: the figures, the disagreements, the file it writes."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl import cli
from reasoner_rl.commands.verify import verify
from reasoner_rl.commands.verify_report import Report
from reasoner_rl.errors import ConfigError, DataError, MissingExtraError
from reasoner_rl.observability.recorder import RolloutRecorder
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup
from reward_fns import math_verify_rule

PLUGIN = """
import time

def same(data_source, solution_str, ground_truth, extra_info):
    if solution_str == "raise":
        raise RuntimeError
    if solution_str == "sleep":
        time.sleep(60)
    status = "unparsed" if not solution_str else "correct"
    return {"score": 1.0, "acc": solution_str == ground_truth, "pred": solution_str, "status": status}

def generous(data_source, solution_str, ground_truth, extra_info):
    return {"score": 1.0, "acc": 0.5, "pred": data_source + str(extra_info.get("n"))}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return f"{tmp_path}/plugin.py"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run(path: Path, fn: str, against: str | None = None, **options: Any) -> Report:
    return verify([path], fn, against, **{"workers": 1, "timeout": 20.0, **options})


def test_the_record_of_a_run_can_be_scored_again(tmp_path: Path) -> None:
    prompt = Prompt("p", (1,), "1+1?", "2", "math500")
    rollouts = tuple(Rollout((1,), (-0.1,), "stop", 0, text) for text in ("\\boxed{2}", "\\boxed{3}"))
    group = ScoredGroup(prompt, rollouts, (Reward(1.0, 1.0, {}), Reward(-1.0, 0.0, {})))
    path = RolloutRecorder(tmp_path, "all").rollouts(1, [group])
    assert path is not None
    report = run(path, "reward_fns:compute_score")
    assert [reward.accuracy for reward in report.scored[0].rewards] == [1.0, 0.0]
    assert [row.data_source for row in report.generations] == ["math500", "math500"]


def test_a_record_in_parquet_is_scored_and_exported_as_jsonl(tmp_path: Path, plugin: str) -> None:
    prompt = Prompt("p", (1,), "1+1?", "2", "sums", {"n": 7})
    rollouts = tuple(Rollout((1, 2), (-0.5, -1.5), "stop", 0, text) for text in ("2", "3 ✓"))
    group = ScoredGroup(prompt, rollouts, (Reward(1.0, 1.0, {"a": 1.0}), Reward(-1.0, 0.0, {})))
    RolloutRecorder(tmp_path, "all").rollouts(1, [group])
    files = [tmp_path / "rollouts" / f"step_000001.{suffix}" for suffix in ("parquet", "jsonl")]
    outs = [tmp_path / "parquet.jsonl", tmp_path / "jsonl.jsonl"]
    for path, out in zip(files, outs, strict=True):
        report = run(path, f"{plugin}:same", f"{plugin}:generous", out=out)
        assert [row.row for row in report.generations] == [1, 2]
        assert [row.response_tokens for row in report.generations] == [2, 2]
        assert [reward.accuracy for reward in report.scored[0].rewards] == [1.0, 0.0]
        assert [reward.extracted for reward in report.scored[1].rewards] == ["sums7", "sums7"]
        assert report.disagreements() == [1]
    ours, theirs = ([json.loads(line) for line in out.read_text().splitlines()] for out in outs)
    for line in (*ours, *theirs):
        for key in ("verified", "against"):
            line[key] = {name: line[key][name] for name in line[key] if name not in ("seconds", "file")}
    assert ours == theirs
    assert (ours[0]["response"], ours[0]["mean_logprob"], ours[1]["verified"]["verdict"]) == (
        "2",
        -1.0,
        "wrong",
    )


def test_what_is_wrong_with_the_rest_is_said(tmp_path: Path, plugin: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "a", "answer": "1"})
    fn = f"{plugin}:same"
    with pytest.raises(DataError, match=r"row.jsonl does not exist. Did you mean 'rows.jsonl'"):
        run(tmp_path / "row.jsonl", fn)
    with pytest.raises(DataError, match="the file holds no rows"):
        run(write(tmp_path / "empty.jsonl", ""), fn)
    (tmp_path / "latin.jsonl").write_bytes(b'{"response": "\xe9"}')
    with pytest.raises(DataError, match=r"latin.jsonl, row 1: cannot be read: 'utf-8' codec can't decode"):
        run(tmp_path / "latin.jsonl", fn)
    with pytest.raises(
        ConfigError, match=r"^--fn 'nothing': reward function must read package.module:function"
    ):
        run(path, "nothing")
    with pytest.raises(ConfigError, match=r"it is 'math-verif'\. Did you mean 'math-verify'\?"):
        run(path, "math-verif")
    with pytest.raises(ConfigError, match=r"^--against 'x.py:1': reward function must read"):
        run(path, fn, "x.py:1")
    with pytest.raises(ConfigError, match="--workers 0: Input should be greater than or equal to 1"):
        run(path, fn, workers=0)
    with pytest.raises(ConfigError, match="--timeout -1"):
        run(path, fn, timeout=-1)
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        run(path, fn, out=tmp_path)
    with pytest.raises(ConfigError, match=r"--out .*rows\.jsonl is one of the files that are read"):
        run(path, fn, out=path)
    (tmp_path / "earlier.jsonl").write_text("kept")
    with pytest.raises(ConfigError, match=r"--out .*earlier\.jsonl: exists already"):
        run(path, fn, out=tmp_path / "earlier.jsonl")
    assert (tmp_path / "earlier.jsonl").read_text() == "kept"
    with pytest.raises(ConfigError, match="--columns 'respons=a': 'respons' must be one of"):
        run(path, fn, columns="respons=a")
    with pytest.raises(ConfigError, match=r"--out .*: File exists|Not a directory"):
        run(path, fn, out=path / "out.jsonl")
    with pytest.raises(ConfigError, match=f"reward function '{plugin}:sam'.*Did you mean 'same'"):
        run(path, f"{plugin}:sam")


def test_scores_without_accuracy_are_no_verdicts(tmp_path: Path, plugin: str) -> None:
    (tmp_path / "bare.py").write_text(
        "def bare(solution_str, ground_truth, **_): return 0.1 * len(solution_str)\n"
    )
    path = write(tmp_path / "rows.jsonl", *({"response": text, "answer": "1"} for text in ("1", "22")))
    report = run(path, f"{tmp_path}/bare.py:bare", f"{plugin}:same")
    found = report.figures(report.scored[0])
    assert (found.accuracy, found.average, found.interval) == (None, None, None)
    assert found.verdicts["unknown"] == 2
    assert found.mean_score == pytest.approx(0.15)
    assert report.disagreements() == []


def test_figures_and_disagreements(tmp_path: Path, plugin: str) -> None:
    texts = ["1", "2", "", "raise", "sleep", "1"]
    rows = [{"response": text, "answer": "1", "data_source": "s", "extra_info": {"n": 7}} for text in texts]
    out = tmp_path / "new" / "out.jsonl"
    path = write(tmp_path / "rows.jsonl", *rows, {"response": "beyond the limit"})
    report = run(path, f"{plugin}:same", f"{plugin}:generous", timeout=1.0, limit=6, out=out)
    columns, figures = report.table()
    assert columns == ["", f"{plugin}:same", f"{plugin}:generous"]
    names = ["responses", "problems", "accuracy", "avg@k over problems, k = 1", "95 % interval of avg@k"]
    verdicts = ["correct", "wrong", "unparsed", "undecided", "timeout", "crash", "unknown"]
    assert [row[0] for row in figures[:13]] == [*names, "mean score", *verdicts]
    assert [row[1] for row in figures[:4]] == ["6", "6", "33.33%", "33.33%"]
    assert [row[1] for row in figures[5:13]] == ["0.333", "2", "1", "1", "0", "1", "1", "0"]
    assert [row[2] for row in figures[2:4]] == ["50.00%", "50.00%"]
    assert [row[2] for row in figures[5:13]] == ["1.000", "6", "0", "0", "0", "0", "0", "0"]
    assert 0.9 < float(figures[15][1]) < 2  # 99th percentile, of six answers: nearly that of the slowest
    assert float(figures[14][1]) < 0.5
    assert report.notes() == [
        "6 of 6 rows do not name their problem (by uid, id, question, problem, prompt): each counts as a problem of "
        "its own"
    ]
    assert report.disagreements() == [1, 2, 3, 4]
    columns, cells = report.disagreement_table()
    assert len(columns) == 7
    assert cells[0] == ["2", "s", "1", "wrong", "2", "correct", "s7"]
    assert cells[3][3:5] == ["timeout", ""]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["response"] for row in written] == texts
    assert [row["verified"]["verdict"] for row in written] == [
        "correct",
        "wrong",
        "unparsed",
        "crash",
        "timeout",
        "correct",
    ]
    assert written[0]["against"]["fn"] == f"{plugin}:generous"
    assert written[0]["extra_info"] == {"n": 7}
    assert run(out, f"{plugin}:same", timeout=1.0).disagreements() == []


def test_several_files_and_samples_of_a_problem(
    tmp_path: Path, plugin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(
        tmp_path / "first.jsonl",
        {"id": 1, "responses": ["1", "1", "2", "3"], "gold": 1},
        {"id": 2, "responses": ["1", "4", "5", "1"], "gold": 1},
    )
    second = write(
        tmp_path / "second.jsonl", *({"id": 3, "meta": {"said": text}, "gold": 1} for text in ("1", "7"))
    )
    out = tmp_path / "out.jsonl"
    arguments = [str(first), "--fn", f"{plugin}:same", "--workers", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["reasoner-rl", "verify", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert f"verifier: {plugin}:same, which decides by itself what counts" in said
    assert "avg@k over problems, k = 4 │ 50.00%" in said
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["verdict"] for each in written[0]["verified"]] == ["correct", "correct", "wrong", "wrong"]
    assert [(each["file"], each["row"]) for each in written[1]["verified"]] == [(str(first), 2)] * 4
    with pytest.raises(
        DataError,
        match=r"second\.jsonl, row 1: no key 'response', 'responses', 'solution', 'completion', 'output'",
    ):
        verify([first, second], f"{plugin}:same", workers=1, timeout=20.0)
    third = write(
        tmp_path / "third.jsonl", {"id": 3, "said": "1", "gold": 1}, {"id": 3, "said": "7", "gold": 1}
    )
    fourth = write(tmp_path / "fourth.jsonl", {"id": 4, "said": ["1", "7", "1"], "gold": 1})
    report = verify(
        [third, fourth],
        f"{plugin}:same",
        f"{plugin}:generous",
        workers=1,
        timeout=20.0,
        columns="response=said",
    )
    columns, cells = report.file_table()
    assert columns[:5] == ["file", "verifier", "responses", "problems", "avg@k"]
    assert [row[:5] for row in cells[::2]] == [
        [str(third), f"{plugin}:same", "2", "1", "50.00%"],
        [str(fourth), f"{plugin}:same", "3", "1", "66.67%"],
    ]
    whole = report.figures(report.scored[0])
    assert (whole.responses, whole.problems, whole.samples) == (5, 2, "2 to 3")
    assert whole.accuracy == pytest.approx(3 / 5)
    assert whole.average == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert [row[0] for row in report.disagreement_table()[1]] == [f"{third}:2", f"{fourth}:1, sample 2"]


def test_a_run_folder_stands_for_its_records(tmp_path: Path, plugin: str) -> None:
    prompts = [Prompt(f"p{n}", (1,), "1+1?", "2", "sums", {"n": n}) for n in range(2)]
    recorder = RolloutRecorder(tmp_path, "all")
    for step in (1, 2):
        groups = [
            ScoredGroup(
                prompt,
                tuple(Rollout((1,), (-0.5,), "stop", 0, text) for text in ("2", "3")),
                (Reward(1.0, 1.0, {}), Reward(-1.0, 0.0, {})),
            )
            for prompt in prompts
        ]
        recorder.rollouts(step, groups[:1], dropped=groups[1:])
    recorder.evaluation(2, "held.out", groups)
    report = run(tmp_path, f"{plugin}:same")
    found = report.figures(report.scored[0])
    assert (found.responses, found.problems, found.samples) == (12, 2, "6")
    assert found.average == 0.5
    names = [Path(row[0]).name for row in report.file_table()[1]]
    assert names == [
        *("step_000001.parquet", "step_000001_dropped.parquet"),
        *("step_000002.parquet", "step_000002_dropped.parquet", "step_000002_held.out.parquet"),
    ]


def test_the_command(
    tmp_path: Path, plugin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"response": "2", "answer": "1"}] * 25
    path = write(tmp_path / "rows.jsonl", *rows)
    arguments = [str(path), "--fn", f"{plugin}:same", "--against", f"{plugin}:generous", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["reasoner-rl", "verify", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "25 of 25 answers are judged differently, the first 20 of them" in said
    assert said.count("wrong") == 1 + 20
    monkeypatch.setattr(sys, "argv", ["reasoner-rl", "verify", str(tmp_path / "row.jsonl")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: dataset {tmp_path}/row.jsonl does not exist")


def test_math_verify_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "a", "answer": "1"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--against math-verify needs .*reasoner_rl\[verifiers\]"):
        run(path, "reward_fns:compute_score", "math-verify")
    with pytest.raises(MissingExtraError, match=r"--fn math-verify needs .*reasoner_rl\[verifiers\]"):
        run(path, "math-verify")
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ImportError, match=r"pip install 'reasoner_rl\[verifiers\]'"):
        math_verify_rule.compute_score("x", "a", "1")


def test_math_verify_by_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: what is asked of it, and what becomes of its answers."""
    library = types.ModuleType("math_verify")
    library.parse = lambda text, parsing_timeout: [text.strip("\\boxed{}")] if "boxed" in text else []  # type: ignore[attr-defined]
    library.verify = lambda gold, answer, timeout_seconds: gold == answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "math_verify", library)
    math_verify_rule._gold.cache_clear()
    right = math_verify_rule.compute_score("x", "\\boxed{7}", "7", wrong_score=0.0)
    assert right == {"score": 1.0, "acc": True, "pred": "7", "status": "correct"}
    assert math_verify_rule.compute_score("x", "\\boxed{8}", "7")["status"] == "wrong"
    nothing = math_verify_rule.compute_score("x", "seven", "7", wrong_score=0.0)
    assert nothing == {"score": 0.0, "acc": False, "pred": None, "status": "unparsed"}
    math_verify_rule._gold.cache_clear()


@pytest.mark.parametrize(
    ("text", "truth", "status"),
    [
        (r"\boxed{0.5}", "1/2", "correct"),
        (r"\boxed{\pi/2}", r"\frac{\pi}{2}", "correct"),
        (r"\boxed{41}", "42", "wrong"),
        ("nothing", "42", "unparsed"),
    ],
)
def test_math_verify_itself(text: str, truth: str, status: str) -> None:
    pytest.importorskip("math_verify")
    assert math_verify_rule.compute_score("x", text, truth)["status"] == status
