"""`data rank`: the files of each method, the report, and what is refused."""

from __future__ import annotations

import json
import sys
from math import log
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl import cli
from reasoner_rl.commands.rank_data import RankOptions, rank
from reasoner_rl.config.data import JudgedDatasetConfig
from reasoner_rl.errors import ConfigError, DataError, MissingExtraError
from reasoner_rl.prompts.judged import read_judged


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Prompt q: a beats b three times to one, and ties with c. Prompt r: a cycle, an unconnected pair, one alone."""
    rows: list[dict[str, Any]] = [
        *({"prompt": "q", "chosen": "a", "rejected": "b"} for _ in range(3)),
        {"prompt": "q", "chosen": "b", "rejected": "a"},
        {"prompt": "q", "answers": ["a", "c"], "ranks": [1, 1]},
        {"prompt": "r", "chosen": "x", "rejected": "y"},
        {"prompt": "r", "chosen": "y", "rejected": "z"},
        {"prompt": "r", "chosen": "z", "rejected": "x"},
        {"prompt": "r", "answers": ["v", "w", "alone"], "ranks": [2, 1, None]},
    ]
    path = tmp_path / "judges.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(
    method: Any, pairs: Any = "all", normalization: Any = "min_max", alpha: float = 0.1
) -> RankOptions:
    return RankOptions(method, pairs, normalization, alpha)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pairs_of(folder: Path) -> list[tuple[str, str]]:
    return [(row["chosen"], row["rejected"]) for row in rows_of(folder / "ranked_pairs.jsonl")]


def test_pairs_of_the_comparisons_themselves(file: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    report = rank(file, made, options("pairs"))
    assert pairs_of(made) == [("a", "b"), ("x", "y"), ("y", "z"), ("z", "x"), ("w", "v")]
    assert rows_of(made / "ranked_pairs.jsonl")[0] == {
        "prompt": [{"role": "user", "content": "q"}],
        "uid": "judges/0",
        "chosen": "a",
        "rejected": "b",
        "chosen_wins": 3.0,
        "rejected_wins": 1.0,
    }
    assert (report.prompts, report.answers, report.comparisons, report.ties) == (2, 9, 9, 1)
    assert (report.equal_pairs, report.answers_not_compared) == (1, 1)
    written = json.loads((made / "ranked_report.json").read_text())
    assert written["settings"] == {"method": "pairs", "pairs": "all"}
    assert written["prompts_with"] == {"unconnected_groups": 1, "answers_not_compared": 1, "cycles": 1}
    [unusual] = written["unusual"]
    assert unusual == {
        "row": 6,
        "unconnected_groups": [[0, 1, 2], [3, 4]],
        "answers_not_compared": [5],
        "cycles": [[0, 1, 2]],
        "answers": ["x", "y", "z", "v", "w", "alone"],
    }


def test_bradley_terry_scores_and_pairs(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("choix")
    made = tmp_path / "made"
    report = rank(file, made, options("bradley-terry", alpha=0.1))
    scores = rows_of(made / "ranked_scores.jsonl")
    found = {(row["uid"], row["component"], row["completion"]): row["reward"] for row in scores}
    assert found == pytest.approx(
        {
            ("judges/0", 0, "a"): 1.0,
            ("judges/0", 0, "b"): 0.0,
            ("judges/0", 0, "c"): 1.0,
            ("judges/5", 0, "x"): 0.5,
            ("judges/5", 0, "y"): 0.5,
            ("judges/5", 0, "z"): 0.5,
            ("judges/5", 1, "v"): 0.0,
            ("judges/5", 1, "w"): 1.0,
        },
        abs=1e-6,
    )
    # The graph of q is a tree, so that its pairs are as if they were alone: (3 + 0.1) to (1 + 0.1), and even.
    assert pairs_of(made) == [("a", "b"), ("c", "b"), ("w", "v")] or pairs_of(made) == [
        *(("c", "b"), ("a", "b"), ("w", "v"))
    ]
    margins = [row["margin"] for row in rows_of(made / "ranked_pairs.jsonl")]
    assert margins == pytest.approx([log(3.1 / 1.1), log(3.1 / 1.1), log(1.1 / 0.1)], abs=1e-6)
    assert (report.equal_pairs, report.pairs_against_majority) == (1 + 3, 0)
    assert report.settings["alpha"] == 0.1
    assert report.prompts_with["no_finite_scores_without_alpha"] == 1
    assert report.unusual[0]["no_finite_scores_without_alpha"] == [[3, 4]]
    said = capsys.readouterr().out
    assert "1 prompts with scores that are finite because of alpha=0.1 alone" in said
    assert "1 prompts with answers in unconnected groups, whose scores cannot be compared" in said
    assert "1 answers not compared, without pair or score" in said

    for name, kind, count in (("scores", "scores", 8), ("pairs", "pairs", 3), ("pairs", "labels", 5)):
        config = JudgedDatasetConfig(path=made / f"ranked_{name}.jsonl")
        assert len(read_judged(config, kind)[0]) == count  # type: ignore[arg-type]

    rank(file, made, options("bradley-terry", "best_worst", "win_rate", 0.1))
    assert [row["rejected"] for row in rows_of(made / "ranked_pairs.jsonl")] == ["b", "v"]
    last = rows_of(made / "ranked_scores.jsonl")[-2:]
    assert [row["reward"] for row in last] == pytest.approx([0.1 / 1.2, 1.1 / 1.2])
    rank(file, made, options("pairs"))
    assert not (made / "ranked_scores.jsonl").exists()
    assert "ranked_scores.jsonl of an earlier call is removed" in capsys.readouterr().out

    with pytest.raises(
        DataError, match=r"judges\.jsonl, row 6: .* not finite with --alpha 0: choose --alpha"
    ):
        rank(file, made, options("bradley-terry", alpha=0.0))
    rows = [{"prompt": "q", "chosen": f"{n}", "rejected": f"{n + 1}"} for n in range(99)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"row 1: the scores of the prompt's 100 answers lie too far apart"):
        rank(file, made, options("bradley-terry", alpha=0.01))


def test_elo_does_not_depend_on_the_order_of_the_rows(file: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    rank(file, made, options("elo"))
    first = {row["completion"]: (row["elo"], row["reward"]) for row in rows_of(made / "ranked_scores.jsonl")}
    assert first["x"] == (1000.0, 0.5)
    assert first["w"][0] - 1000 == pytest.approx(1000 - first["v"][0])
    assert first["w"][0] > 1200
    assert [row["margin"] for row in rows_of(made / "ranked_pairs.jsonl")][-1] == pytest.approx(
        (first["w"][0] - first["v"][0]) * log(10) / 400
    )
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    rank(file, made, options("elo"))
    again = {row["completion"]: (row["elo"], row["reward"]) for row in rows_of(made / "ranked_scores.jsonl")}
    assert again.keys() == first.keys()
    assert all(again[answer] == pytest.approx(first[answer], rel=1e-12) for answer in first)


def test_a_pair_against_the_majority_of_its_own_comparisons_is_counted(file: Path, tmp_path: Path) -> None:
    """b lost to a by a majority, and beats c, which beats a, so often that its score is above that of a."""
    rows = [("a", "b")] * 1 + [("b", "c")] * 9 + [("c", "b")] + [("c", "a")] * 9 + [("a", "c")]
    file.write_text(
        "".join(json.dumps({"prompt": "q", "chosen": one, "rejected": other}) + "\n" for one, other in rows)
    )
    report = rank(file, tmp_path / "made", options("elo"))
    assert report.pairs_against_majority == 1
    assert pairs_of(tmp_path / "made") == [("b", "c"), ("b", "a"), ("c", "a")]
    assert report.prompts_with == {"cycles": 1}


def test_what_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    with pytest.raises(ConfigError, match="--pairs best_worst needs scores: --method bradley-terry or elo"):
        rank(file, made, options("pairs", "best_worst"))
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(
            MissingExtraError, match=r"--method bradley-terry needs .*'choix'.*reasoner_rl\[preferences\]"
        ):
            rank(file, made, options("bradley-terry"))
    assert not made.exists()
    made.mkdir()
    (made / "ranked_pairs.jsonl").mkdir()
    with pytest.raises(ConfigError, match=rf"--out={made}: .*ranked_pairs\.jsonl: Is a directory"):
        rank(file, made, options("elo"))
    file.write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "tie": true}\n')
    with pytest.raises(
        DataError, match=r"there is nothing to write: 2 answers to 1 prompts, 1 comparisons, 1 of"
    ):
        rank(file, made, options("pairs"))


def test_the_command(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[Any, str]:
        words = ["reasoner-rl", "data", "rank", str(file), "--out", str(tmp_path / "made"), *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out + captured.err

    status, said = run("--method", "elo", "--pairs", "best_worst", "--normalize", "win_rate")
    assert status == 0
    assert "rows: 2 in ranked_pairs.jsonl, 8 in ranked_scores.jsonl" in said
    settings = json.loads((tmp_path / "made" / "ranked_report.json").read_text())["settings"]
    assert settings == {
        "method": "elo",
        "pairs": "best_worst",
        "normalization": "win_rate",
        "margin": "log-odds",
        "start": 1000.0,
        "k": 32.0,
        "scale": 400.0,
        "periods": 100,
    }
    for arguments, rule in (
        (("--normalize", "min_max"), "--normalize min_max has no effect with --method pairs"),
        (
            ("--alpha", "1", "--method", "elo"),
            "--alpha 1: must be a finite number of at least 0, with --method",
        ),
        (
            ("--alpha", "inf", "--method", "bradley-terry"),
            "--alpha inf: must be a finite number of at least 0",
        ),
    ):
        status, said = run(*arguments)
        assert (status, said.count("\n")) == (2, 1)
        assert rule in said
