"""What is made of responses that exist: scored again, read from elsewhere, compared, exported."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow.parquet as pq
import pytest

from reasoner_rl.commands.diff_evaluations import compare
from reasoner_rl.commands.evaluation_power import PowerOptions, parse_samples, power_table
from reasoner_rl.commands.evaluation_tables import (
    change_table,
    difference_table,
    length_table,
    problem_table,
    report_table,
)
from reasoner_rl.commands.export_evaluation import export_result
from reasoner_rl.commands.foreign_responses import read_responses
from reasoner_rl.commands.rescore import rescore_result, score_files
from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.evaluation.power import Variances, problems_needed
from reasoner_rl.evaluation.result import EvaluationResult, differences, read_result

MATHS = "reward_fns:compute_score"
Command = Callable[..., tuple[int, str, str]]
QUESTIONS = ("What is 1/4 + 1/4?", "What is 2 + 2?", "What is 3 + 3?")
ROWS = [
    {
        "question": QUESTIONS[0],
        # Written in two ways, so that the vote is by the verifier's equality: 1/2 and 0.5 win over two 7s.
        "responses": [r"\boxed{7}", r"\boxed{7}", r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", "Answer: 1/2"],
        "gold": "1/2",
    },
    {
        "question": QUESTIONS[1],
        "responses": ["Answer: 4", r"\boxed{4}", r"\boxed{5}", r"\boxed{5}", "no idea"],
        "gold": 4,
    },
    {"question": QUESTIONS[2], "responses": ["Answer: 6"] * 5, "gold": "6"},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationResult]:
    """The rows above, scored by the verifier of mathematical answers."""
    folder = tmp_path_factory.mktemp("scored")
    file = jsonl(folder / "arithmetic.jsonl", ROWS)
    return folder / "result", score_files([file], MATHS, folder / "result", workers=1, timeout=10)


def test_responses_from_elsewhere_are_reported_as_an_evaluation(
    scored: tuple[Path, EvaluationResult],
) -> None:
    place, result = scored
    (report,) = result.reports
    assert read_result(place) == read_result(place / "evaluation.json") == result
    assert (report.dataset, report.problems, report.samples_per_problem) == ("arithmetic", 3, 5)
    assert [row.correct for row in report.table] == [3, 2, 5]
    assert report.accuracy == pytest.approx((3 / 5 + 2 / 5 + 1) / 3)
    # 1 - C(n - c, k) / C(n, k) by hand: of 5 samples with 3 right 1 pair of 10 is all wrong, with 2 right 3 of 10.
    assert report.pass_at == {
        1: pytest.approx(2 / 3),
        2: pytest.approx((0.9 + 0.7 + 1) / 3),
        4: pytest.approx(1),
        5: pytest.approx(1),
    }
    assert report.majority_at_k == pytest.approx(1), "4 and 5 have two votes each, and 4 came first"
    assert report.table[0].majority_answer in (r"\frac{1}{2}", "1/2", "0.5")
    assert [row.unanswered for row in report.table] == [0, 1, 0]
    assert [row.problem_sha256 for row in report.table] == [
        hashlib.sha256(question.encode()).hexdigest() for question in QUESTIONS
    ]
    unknown = (report.truncated_share, report.mean_response_tokens, report.lengths, result.settings.model)
    assert unknown == (None, None, {}, None)
    columns, rows = report_table(result)
    cells = dict(zip(columns, rows[0], strict=True))
    assert (cells["avg@5"], cells["pass@2"], cells["maj@5"]) == ("0.667", "0.867", "1.000")
    assert (cells["tokens"], cells["truncated"], cells["unanswered"]) == ("unknown", "unknown", "6.7%")
    assert length_table(result)[1] == []
    assert problem_table(report)[1][1][:3] == ["arithmetic/1", "2", "5"]


def test_another_verifier_scores_the_same_responses(
    scored: tuple[Path, EvaluationResult], tmp_path: Path
) -> None:
    place, before = scored
    verifier = tmp_path / "lenient.py"
    verifier.write_text(
        "def f(data_source, solution_str, ground_truth, extra_info):\n"
        "    return {'score': 1.0, 'acc': '5' in solution_str or '6' in solution_str}\n"
    )
    result = rescore_result(place, f"{verifier}:f", tmp_path / "again", workers=1, timeout=10)
    assert [row.correct for row in result.reports[0].table] == [1, 2, 5]
    assert (result.how, result.source) == (
        "rescored",
        {
            "path": str(place / "evaluation.json"),
            "sha256": hashlib.sha256((place / "evaluation.json").read_bytes()).hexdigest(),
        },
    )
    changed = [key for key, _, _ in differences(before.settings, result.settings)]
    assert changed == [
        "verifier.functions.0.fn",
        "verifier.functions.0.source_sha256",
        "verifier.functions.0.parameters.long_decimals",
    ]
    compared = compare(place, tmp_path / "again")
    (found,) = compared.sets
    assert found.difference.mean == pytest.approx(-2 / 5 / 3)
    assert found.p_value == 1.0
    assert difference_table(compared.sets)[1][0][-1] == "could be noise: the interval holds 0"
    assert [row[0] for row in change_table(found.changes)[1]] == ["arithmetic/0"]
    with pytest.raises(ConfigError, match="again: holds a result or a run already"):
        rescore_result(place, f"{verifier}:f", tmp_path / "again", workers=1, timeout=10)
    (tmp_path / "again" / "evaluations" / "step_000000_arithmetic.parquet").unlink()
    with pytest.raises(DataError, match="the responses to arithmetic are not there in parquet"):
        rescore_result(tmp_path / "again", MATHS, tmp_path / "third", workers=1, timeout=10)


def test_math_verify_by_its_name(scored: tuple[Path, EvaluationResult], tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    result = rescore_result(scored[0], "math-verify", tmp_path / "again", workers=1, timeout=10)
    assert [row.correct for row in result.reports[0].table] == [3, 2, 5]
    assert "reward_fns.math_verify_rule:compute_score" in str(result.settings)


def test_results_of_other_problems_say_so(scored: tuple[Path, EvaluationResult], tmp_path: Path) -> None:
    place, _ = scored
    other = {"id": "extra", "question": "What is 9 + 9?", "responses": ["18"], "gold": "18"}
    rows = [*({**row, "responses": row["responses"][:1]} for row in ROWS[1:]), other]
    file = jsonl(tmp_path / "others.jsonl", rows)
    score_files([file], MATHS, tmp_path / "result", workers=1, timeout=10)
    compared = compare(place, tmp_path / "result")
    told = "\n".join(compared.remarks)
    assert "the sets have different names: arithmetic and others" in told
    assert "not the same problems: 1 in A alone, 1 in B alone; what follows is over the 2 that both" in told
    assert "5 samples per problem in A and 1 in B" in told
    assert [found.problems for found in compared.sets] == [2]
    assert ("samples_per_problem", "5", "1") in compared.settings
    twice = compare(place, place)
    assert twice.settings == []
    assert twice.remarks == ["no setting differs: these are two runs of the same evaluation"]


def test_the_power_of_a_comparison(
    scored: tuple[Path, EvaluationResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = scored
    options = PowerOptions(difference=0.1, samples=(1, 16), resemblance=0.5, power=0.8)
    columns, rows = power_table(place, None, options)
    cells = dict(zip(columns, rows[0], strict=True))
    # 3, 2 and 5 of 5 are right: unbiased variances of samples 0.3, 0.3, 0; of the means 0.0933, of which 0.04 is noise.
    assert cells["variance within"] == "0.2000"
    assert cells["spread of differences"] == f"{2 * 0.5 * (0.28 / 3 - 0.04):.4f}"
    needed = problems_needed(0.1, Variances(0.2, 0.28 / 3 - 0.04), 1)
    assert cells["problems needed for 0.1"] == f"{needed}"
    assert int(rows[1][5]) < int(rows[0][5])
    columns, rows = power_table(place, place, options)
    assert rows[0][3] == "0.0000", "the same result twice does not differ"
    assert (
        "arithmetic: problems differ no more than chance between samples explains" in capsys.readouterr().out
    )
    for samples, rule in (("1,x", "'x' must be a whole number"), ("", "'' must be a whole number")):
        with pytest.raises(ConfigError, match=rule):
            parse_samples(samples)
    with pytest.raises(ConfigError, match="must be numbers of at least 1"):
        PowerOptions(0.1, (0,), 0.5, 0.8)
    with pytest.raises(ConfigError, match="--difference 2: must be between 0 and 1"):
        PowerOptions(2, (1,), 0.5, 0.8)
    rows = [{**row, "question": f"Other than {row['question']}"} for row in ROWS[:2]]
    other = jsonl(tmp_path / "arithmetic.jsonl", rows)
    score_files([other], MATHS, tmp_path / "other", workers=1, timeout=10)
    with pytest.raises(DataError, match="not the same problems: 3 and 2 of 3 and 2 are in one"):
        power_table(place, tmp_path / "other", options)


def test_where_no_sample_is_right_no_variance_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = jsonl(tmp_path / "hard.jsonl", [{**row, "gold": "99"} for row in ROWS])
    score_files([file], MATHS, tmp_path / "hard", workers=1, timeout=10)
    assert "data source none (no rule of its own) -> mathematical answers" in capsys.readouterr().out
    _, rows = power_table(tmp_path / "hard", None, PowerOptions(0.1, (1, 16), 0.8, 0.8))
    assert [row[-2:] for row in rows] == [["unknown", "unknown"]] * 2
    assert (
        "hard: all samples have the same accuracy, so variances cannot be measured" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "the file holds no rows"),
        (
            [{"response": "1", "gold": "1"}],
            "row 1: no key 'uid', 'id', 'question', 'problem' or 'prompt' (--columns problem=KEY names",
        ),
        ([{"question": "", "response": "1", "gold": "1"}], "row 1: question must name the problem; it is ''"),
        ([{"id": 1, "respons": "1", "gold": "1"}], "Did you mean 'response'?"),
        ([{"id": 1, "response": 3, "gold": "1"}], "row 1: response must be text, or a list of texts"),
        ([{"id": 1, "response": "3", "gold": ""}], "row 1: gold must be text, a number"),
        (
            [{"id": 1, "response": "3", "gold": "3"}, {"id": 1, "response": "3", "gold": "4"}],
            "row 2: gold must be that of the problem's first row, '3'; it is '4'",
        ),
        (
            [{"id": 1, "response": "3", "gold": "3"}, {"id": 2, "response": ["3", "4"], "gold": "4"}],
            "every problem needs the same number of responses; there are 1 to 2 (the fewest for set/0)",
        ),
    ],
)
def test_rows_that_cannot_be_read(rows: list[dict[str, Any]], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_responses(jsonl(tmp_path / "set.jsonl", rows), "set")
    assert told in str(caught.value)


def test_rows_of_one_response_each_are_gathered_by_problem(tmp_path: Path) -> None:
    rows = [
        {"id": name, "response": f"{name}{n}", "answer": 1, "tokens": n, "finish_reason": "length"}
        for n in (1, 2)
        for name in "ab"
    ]
    counted = {"tokens": 7, "finish_reason": "stop"}
    read = read_responses(jsonl(tmp_path / "set.jsonl", rows), "set")
    assert [[rollout.text for rollout in group.rollouts] for group in read.groups] == [
        ["a1", "a2"],
        ["b1", "b2"],
    ]
    assert [len(rollout.token_ids) for rollout in read.groups[0].rollouts] == [1, 2]
    assert read.lengths_known
    assert {rollout.finish_reason for group in read.groups for rollout in group.rollouts} == {"length"}
    # Of a list `tokens` is that of no response, and the length must not be 0.
    listed = jsonl(tmp_path / "list.jsonl", [{"id": 1, "response": ["a"], "answer": 1} | counted])
    assert not read_responses(listed, "list").lengths_known
    single = jsonl(tmp_path / "one.jsonl", [{"id": 1, "response": "a", "answer": 1} | counted])
    both = score_files([listed, single], MATHS, tmp_path / "both", workers=1, timeout=10)
    assert [report.mean_response_tokens for report in both.reports] == [None, 7]
    assert [report.truncated_share for report in both.reports] == [None, 0]
    two = jsonl(tmp_path / "two.jsonl", rows)
    with pytest.raises(
        DataError, match=r"responses per problem: \S*one\.jsonl 1, \S*two\.jsonl 2; score them"
    ):
        score_files([single, two], MATHS, tmp_path / "three", workers=1, timeout=10)


def test_files_that_are_not_there_and_results_that_are_no_text(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "set.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"reward function 'no\.py:f': there is no file no\.py"):
        score_files([file], "no.py:f", tmp_path / "out", workers=1, timeout=10)
    assert not (tmp_path / "out").exists()
    (tmp_path / "other.json").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"other\.json: cannot be read: 'utf-8' codec") as caught:
        read_result(tmp_path / "other.json")
    assert "Did you mean" not in str(caught.value)


def test_other_keys_are_named_as_for_verify(
    scored: tuple[Path, EvaluationResult], tmp_path: Path, command_line: Command
) -> None:
    place, before = scored
    rows = [
        {"doc": {"question": row["question"]}, "resps": row["responses"], "meta": {"gold": row["gold"]}}
        for row in ROWS
    ]
    file = jsonl(tmp_path / "arithmetic.jsonl", rows)
    columns = "problem=doc.question,response=resps,ground_truth=meta.gold"
    given = ("eval", "score", str(file), "--out", str(tmp_path / "named"), "--workers", "1")
    status, _, errors = command_line(*given, "--columns", columns)
    assert (status, errors) == (0, "")
    named = read_result(tmp_path / "named")
    assert named.reports == before.reports
    assert named.settings.data["arithmetic"].rows == {
        "columns": {"problem": "doc.question", "response": "resps", "ground_truth": "meta.gold"}
    }
    for wrong, said in (
        ("response=x", "arithmetic.jsonl, row 1: no key 'x' (--columns response=x); found doc, resps, meta."),
        ("respnse=x", "'respnse' must be one of response, ground_truth, problem, data_source, extra_info."),
    ):
        status, _, errors = command_line(*given[:-4], "--out", str(tmp_path / "wrong"), "--columns", wrong)
        assert (status, said in errors) == (2, True), errors
    assert not (tmp_path / "wrong").exists()
    status, _, errors = command_line("eval", "--rescore", str(place), "--fn", MATHS)
    assert (status, "a command: `reasoner-rl eval rescore RESULT --fn" in errors) == (2, True), errors


def test_export_for_lm_evaluation_harness(scored: tuple[Path, EvaluationResult], tmp_path: Path) -> None:
    """The keys are those of lm_eval 0.4.13's result_schema.py."""
    place, result = scored
    results, samples = export_result(place, "lm-eval", tmp_path)
    date = result.made.split("+")[0].replace(":", "-")
    assert results == tmp_path / "unknown" / f"results_{date}.json"
    assert samples == tmp_path / "unknown" / f"samples_arithmetic_{date}.jsonl"
    written = json.loads(results.read_text())
    assert {
        "results",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
    } <= (written.keys())
    metrics = written["results"]["arithmetic"]
    means = [3 / 5, 2 / 5, 1.0]
    assert metrics["exact_match,none"] == pytest.approx(fmean(means))
    assert metrics["exact_match_stderr,none"] == pytest.approx(stdev(means) / math.sqrt(3))
    assert (metrics["pass@2,none"], metrics["pass@2_stderr,none"]) == (pytest.approx(2.6 / 3), "N/A")
    assert written["configs"]["arithmetic"]["repeats"] == 5
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert rows[0].keys() == {
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
        *("doc_hash", "prompt_hash", "target_hash", "exact_match"),
    }
    assert rows[1]["resps"] == [ROWS[1]["responses"]]
    assert rows[0]["target_hash"] == hashlib.sha256(b"1/2").hexdigest()
    joined = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)
    assert written["task_hashes"] == {"arithmetic": hashlib.sha256(joined.encode()).hexdigest()}


def test_export_for_lighteval(scored: tuple[Path, EvaluationResult], tmp_path: Path) -> None:
    """The keys are those of lighteval 0.13.0's logging/evaluation_tracker.py, tasks/requests.py and model_output.py."""
    place, _ = scored
    results, details = export_result(place, "lighteval", tmp_path)
    written = json.loads(results.read_text())
    assert list(written) == [
        *("config_general", "results", "versions", "config_tasks", "summary_tasks", "summary_general")
    ]
    assert results.parent == tmp_path / "results" / "unknown"
    metrics = written["results"]["arithmetic|0"]
    assert metrics["avg@n:n=5"] == pytest.approx(2 / 3) == written["results"]["all"]["avg@n:n=5"]
    assert metrics["pass@k:k=2&n=5"] == pytest.approx(2.6 / 3)
    assert details.name.startswith("details_arithmetic|0_")
    table = pq.read_table(details)
    assert table.column_names == ["doc", "metric", "model_response"]
    first = table.to_pylist()[0]
    assert (first["doc"]["query"], first["doc"]["choices"], first["doc"]["gold_index"]) == (
        QUESTIONS[0],
        ["1/2"],
        0,
    )
    assert first["model_response"]["text"] == ROWS[0]["responses"]
    assert first["metric"] == {"avg@n:n=5": 0.6}


def test_files_that_are_no_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation\.json: cannot be read: No such file"):
        read_result(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"model": "m", "reports": []}')
    with pytest.raises(DataError, match="is no result file of version 1: made: Field required"):
        read_result(tmp_path)
