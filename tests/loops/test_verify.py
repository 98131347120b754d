"""`reasoner-rl verify`: reading the rows, the figures, the disagreements, the file it writes."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl import cli
from reasoner_rl.errors import ConfigError, DataError, MissingExtraError
from reasoner_rl.loops.verify import Report, read_rows, verify
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
    return verify(path, fn, against, **{"workers": 1, "timeout": 20.0, **options})


def test_rows_of_both_kinds(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"response": "a", "ground_truth": "1", "data_source": "x", "extra_info": {"n": 1}, "answer": "no"},
        "",
        {"solution": "", "answer": 2.5, "data_source": None},
        {"response": "b", "solution": "worked out", "answer": 3},
        {"response": "c", "answer": {"target": 3, "numbers": [1, 2]}},
    )
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [1, 3, 4, 5]
    read = [
        (row.task.response, row.task.ground_truth, row.task.data_source, row.task.extra_info) for row in rows
    ]
    assert read == [
        ("a", "1", "x", {"n": 1}),
        ("", "2.5", "", {}),
        ("b", "3", "", {}),
        ("c", '{"numbers": [1, 2], "target": 3}', "", {}),
    ]


def test_the_record_of_a_run_can_be_scored_again(tmp_path: Path) -> None:
    prompt = Prompt("p", (1,), "1+1?", "2", "math500")
    rollouts = tuple(Rollout((1,), (-0.1,), "stop", 0, text) for text in ("\\boxed{2}", "\\boxed{3}"))
    group = ScoredGroup(prompt, rollouts, (Reward(1.0, 1.0, {}), Reward(-1.0, 0.0, {})))
    path = RolloutRecorder(tmp_path, "all").rollouts(1, [group])
    assert path is not None
    report = run(path, "reward_fns:compute_score")
    assert [reward.accuracy for reward in report.scored[0].rewards] == [1.0, 0.0]
    assert [row.task.data_source for row in report.rows] == ["math500", "math500"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: must be an object with keys; it is [1]"),
        ({"ground_truth": "1"}, "line 2: no key 'response' or 'solution'; found ground_truth."),
        ({"respons": "a", "answer": 1}, "found respons, answer. Did you mean 'response'?"),
        ({"response": "a"}, "line 2: no key 'ground_truth' or 'answer'; found response."),
        ({"response": 3, "answer": 1}, "line 2: response must be text; it is 3"),
        (
            {"response": "a", "answer": True},
            "line 2: answer must be text, a number, a list or a mapping; neither empty, nor with NaN or infinities; "
            "it is True",
        ),
        ({"response": "a", "answer": " "}, "nor with NaN or infinities; it is ' '"),
        ({"response": "a", "answer": []}, "nor with NaN or infinities; it is []"),
        ({"response": "a", "answer": "1", "data_source": 4}, "line 2: data_source must be text; it is 4"),
        (
            {"response": "a", "answer": "1", "extra_info": []},
            "line 2: extra_info must be an object; it is []",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "a", "answer": "1"}, row)
    with pytest.raises(DataError) as error:
        list(read_rows(path))
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert said in str(error.value)


def test_what_is_wrong_with_the_rest_is_said(tmp_path: Path, plugin: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "a", "answer": "1"})
    fn = f"{plugin}:same"
    with pytest.raises(
        DataError, match=r"cannot be read: No such file or directory. Did you mean 'rows.jsonl'"
    ):
        run(tmp_path / "row.jsonl", fn)
    with pytest.raises(DataError, match="the file holds no rows"):
        run(write(tmp_path / "empty.jsonl", ""), fn)
    (tmp_path / "latin.jsonl").write_bytes(b'{"response": "\xe9"}')
    with pytest.raises(DataError, match=r"latin.jsonl: is not UTF-8"):
        run(tmp_path / "latin.jsonl", fn)
    with pytest.raises(
        ConfigError, match=r"^--fn 'nothing': reward function must read package.module:function"
    ):
        run(path, "nothing")
    with pytest.raises(ConfigError, match=r"^--against 'x.py:1': reward function must read"):
        run(path, fn, "x.py:1")
    with pytest.raises(ConfigError, match="--workers 0: Input should be greater than or equal to 1"):
        run(path, fn, workers=0)
    with pytest.raises(ConfigError, match="--timeout -1"):
        run(path, fn, timeout=-1)
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        run(path, fn, out=tmp_path)
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
    column = report.scored[0].column()
    assert column[:8] == ["unknown", "0", "0", "0", "0", "0", "0", "2"]
    assert report.disagreements() == []


def test_figures_and_disagreements(tmp_path: Path, plugin: str) -> None:
    texts = ["1", "2", "", "raise", "sleep", "1"]
    rows = [{"response": text, "answer": "1", "data_source": "s", "extra_info": {"n": 7}} for text in texts]
    out = tmp_path / "new" / "out.jsonl"
    path = write(tmp_path / "rows.jsonl", *rows, {"response": "beyond the limit"})
    report = run(path, f"{plugin}:same", f"{plugin}:generous", timeout=1.0, limit=6, out=out)
    columns, figures = report.table()
    assert columns == ["", f"{plugin}:same", f"{plugin}:generous"]
    names = ["accuracy", "correct", "wrong", "unparsed", "undecided", "timeout", "crash", "unknown"]
    assert [row[0] for row in figures[:8]] == names
    assert [row[1] for row in figures[:8]] == ["33.33%", "2", "1", "1", "0", "1", "1", "0"]
    assert [row[2] for row in figures[:8]] == ["50.00%", "6", "0", "0", "0", "0", "0", "0"]
    assert 0.9 < float(figures[10][1]) < 2  # 99th percentile, of six answers: nearly that of the slowest
    assert float(figures[9][1]) < 0.5
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
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/row.jsonl: cannot be read")


def test_math_verify_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl", {"response": "a", "answer": "1"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--against math-verify needs .*reasoner_rl\[verifiers\]"):
        run(path, "reward_fns:compute_score", "math-verify")
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
