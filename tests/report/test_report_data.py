"""What the report reads: folders, records, configuration, tokenizers, and bytes that the page decodes."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from made_up_responses import read_lines
from rich.console import Console

from reasoner_rl.commands.report import inspect, report
from reasoner_rl.config.load import dump_recipe, load_recipe
from reasoner_rl.config.yaml_text import flat_keys
from reasoner_rl.errors import ConfigError, DataError, MissingExtraError
from reasoner_rl.report import vendored
from reasoner_rl.report.configuration import between_runs, nearest_shipped
from reasoner_rl.report.pages import _parts, token_part, write_page
from reasoner_rl.report.pieces import find_pieces, read_pieces
from reasoner_rl.report.responses import TokenColumns, read_responses
from reasoner_rl.report.run_files import (
    RecordFiles,
    check_is_run,
    find_records,
    read_run,
    short_names,
    steps_to_show,
)
from reasoner_rl.report.terminal import Choice, show_responses


def test_names_are_as_short_as_can_be() -> None:
    assert short_names([Path("/a/runs/one"), Path("/b/runs/two")]) == ["one", "two"]
    assert short_names([Path("/a/x/rl"), Path("/b/y/rl")]) == ["x/rl", "y/rl"]
    assert short_names([Path("/a/quickstart/rl")]) == ["quickstart/rl"]
    with pytest.raises(DataError, match="the same run is named twice"):
        short_names([Path("/a/x"), Path("/a/x")])


def test_what_is_no_run(tmp_path: Path, real_run: Path) -> None:
    with pytest.raises(DataError, match=r"tony: there is no such folder. Did you mean 'tiny'\?"):
        check_is_run(real_run.with_name("tony"))
    with pytest.raises(DataError, match="is a file; name the folder"):
        check_is_run(real_run / "metrics.jsonl")
    with pytest.raises(DataError, match=f"none of metrics.jsonl.*There are runs inside: {real_run}$"):
        check_is_run(real_run.parent)
    with pytest.raises(DataError, match="is not the folder of a run"):
        check_is_run(tmp_path)
    with pytest.raises(ConfigError, match=r"--out .*: must be a file that ends in .html"):
        report([real_run], tmp_path, 1, 64)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_no_report_made_is_left_alone(tmp_path: Path, hostile_run: Path) -> None:
    (tmp_path / "aime_data").mkdir()
    (tmp_path / "aime_data" / "test.parquet").write_bytes(b"mine")
    (tmp_path / "other_data").write_text("mine")
    for name, what in (("aime", "which holds test.parquet"), ("other", "which is a file")):
        with pytest.raises(ConfigError, match=f"{name}_data, {what} and was not made by a report"):
            report([hostile_run], tmp_path / f"{name}.html", 1, 64)
        assert not (tmp_path / f"{name}.html").exists()
    assert (tmp_path / "aime_data" / "test.parquet").read_bytes() == b"mine"


def test_a_run_without_anything_else_has_notes(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\nbroken\n{"step": 2}\n')
    (tmp_path / "evaluation.json").write_text('{"reports": {"a": 1}}')
    (tmp_path / "events.jsonl").write_text('{"step": 1, "kind": "start"}\n')
    said = "\n".join(read_run(tmp_path, "x").notes)
    for part in (
        "line 2: 'broken' is not a JSON object",
        "events.jsonl, line 1: no key 'time'",
        "run.json is missing",
        "`reports` is not a list of reports",
        "no configuration",
        "no responses",
    ):
        assert part in said


def test_records_are_found_in_order(tmp_path: Path) -> None:
    names = (
        "rollouts/step_000002.parquet",
        "rollouts/step_000002.jsonl",
        "rollouts/step_000010_dropped.jsonl",
    )
    more = ("rollouts/step_000010.jsonl", "evaluations/step_000000_a%2Fb_c.parquet", "rollouts/notes.txt")
    for name in (
        *names,
        *more,
        "evaluations/step_000004_training.jsonl",
        "rollouts/.step_000011.parquet.tmp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    notes: list[str] = []
    records = find_records(tmp_path, notes)
    assert [(r.set, r.step, r.dropped, r.parquet is not None, r.jsonl is not None) for r in records] == [
        ("training", 2, False, True, True),
        ("training", 10, False, False, True),
        ("training", 10, True, False, True),
        ("held out: a/b_c", 0, False, True, False),
        ("held out: training", 4, False, False, True),
    ]
    assert notes == ["not read, for their names are not those of records: notes.txt"]


def test_each_so_many_th_step_and_the_last_are_shown() -> None:
    records = [RecordFiles("training", step, False, None, None) for step in (1, 2, 3, 4, 5, 6)]
    assert [record.step for record in steps_to_show(records, 4)] == [1, 5, 6]


def test_the_nearest_shipped_recipe() -> None:
    def flat(*overrides: str) -> dict[str, Any]:
        return flat_keys(yaml.safe_load(dump_recipe(load_recipe("quickstart", overrides))))

    assert nearest_shipped(flat()) == ("quickstart", [])
    found = nearest_shipped(flat("run.seed=5", "run.output_dir=elsewhere"))
    assert found is not None
    assert [(d.key, d.here, d.there) for d in found[1]] == [("run.seed", 5, 0)]
    assert nearest_shipped({"recipe": "eval", "algorithm.kind": "none"}) is None
    assert between_runs([flat(), flat("run.seed=5"), flat()]) == [("run.seed", [0, 5, 0])]


def columns_of(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decode a part of tokens anew, as the page does."""
    length = struct.unpack("<I", data[:4])[0]
    header, start, found = json.loads(data[4 : 4 + length]), 4 + length, {}
    for name, kind, size in header["columns"]:
        raw = numpy.frombuffer(data[start : start + size], "u1")
        width, start = int(kind[1:]) // 8, start + size
        if kind == "f32":
            found[name] = raw.view("<f4")
        else:
            planes = raw.reshape(width, -1).astype("i8")
            whole = sum(planes[place] << 8 * place for place in range(width))
            found[name] = whole.astype("i2") if kind == "i16" else whole
    return header, found


def test_tokens_come_back_from_bytes() -> None:
    nan = numpy.nan
    tokens = TokenColumns(
        offsets=numpy.array([0, 2, 2, 5]),
        ids=numpy.array([7, 70_000, 1, 2, 3], "i4"),
        logprobs=numpy.array([0, -1.2345, -numpy.inf, -100, -0.0004], "f4"),
        trainer_logprobs=numpy.array([-0.5, -1.2345, nan, nan, -0.0003], "f4"),
        entropies=numpy.array([0.0, 1.2344, nan, nan, 99.0], "f4"),
        advantages=numpy.array([0.5, 0.5, nan, nan, nan], "f4"),
        trained=numpy.ones(5, bool),
    )
    header, found = columns_of(token_part(tokens, 0, 3))
    assert header["offsets"] == [0, 2, 2, 5]
    assert found.keys() == {"ids", "logprobs", "gap", "entropy", "advantage"}
    assert found["ids"].tolist() == [7, 70_000, 1, 2, 3]
    assert found["logprobs"].tolist() == [0, 1234, 65535, 65535, 0] or found["logprobs"].tolist()[1] == 1235
    assert found["gap"].tolist() == [-5000, 0, -32768, -32768, 1]
    assert found["entropy"].tolist() == [0, 1234, 65535, 65535, 65534]
    assert found["advantage"].tolist() == pytest.approx([0.5, nan, nan], nan_ok=True)
    header, found = columns_of(token_part(tokens, 2, 3))  # of the last response alone
    assert header["first"] == 2
    assert header["offsets"] == [0, 3]
    assert found["ids"].tolist() == [1, 2, 3]
    assert "advantage" not in found


def test_parts_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoner_rl.report.pages.TOKENS_PER_PART", 10)
    none = numpy.array([], "f4")
    for lengths, expected in (
        ([4, 4, 4, 30, 1, 1], [(0, 2), (2, 3), (3, 4), (4, 6)]),
        ([5], [(0, 1)]),
        ([], []),
    ):
        offsets = numpy.concatenate([[0], numpy.cumsum(lengths)]).astype("i8")
        assert list(_parts(TokenColumns(offsets, none, none, none, none, none, none))) == expected


def test_the_pieces_of_tokens(tmp_path: Path, tiny_tokenizer: Any) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "final")
    pieces = find_pieces(tmp_path, {}, [])
    assert pieces is not None
    ids = range(len(tiny_tokenizer))
    assert [p for p in pieces if isinstance(p, str)] == [
        tiny_tokenizer.decode([n]) for n in ids if isinstance(pieces[n], str)
    ]
    tree = {
        "model": {"vocab": {"\u00c3": 0, "\u0120a": 1, "\u00c3\u00a9": 2}},
        "added_tokens": [{"id": 4, "content": "<s>"}],
        "decoder": {"type": "ByteLevel"},
    }
    (tmp_path / "t.json").write_text(json.dumps(tree))
    # The first byte of é alone, a space and a, the whole of é, a hole, a special token.
    assert read_pieces(tmp_path / "t.json") == [[0xC3], " a", "é", None, "<s>"]
    tree = {"model": {"vocab": [["<0xC3>", 0.0], ["\u2581the", -1.0]]}, "decoder": None}
    (tmp_path / "t.json").write_text(json.dumps(tree))
    assert read_pieces(tmp_path / "t.json") == [[0xC3], " the"]
    notes: list[str] = []
    assert find_pieces(tmp_path / "none", {"model.path": "no/such"}, notes) is None
    assert "tokens are shown by their ids, because no tokenizer.json was found" in notes[0]


def test_means_of_responses_agree_with_the_jsonl(real_run: Path) -> None:
    records = find_records(real_run, [])
    for files in records:
        if files.dropped or files.parquet is None:
            continue
        ours = read_responses(files)
        theirs = read_responses(RecordFiles(files.set, files.step, files.dropped, None, files.jsonl))
        assert ours.tokens is not None
        assert theirs.tokens is None
        assert [group["uid"] for group in ours.groups] == [group["uid"] for group in theirs.groups]
        for name in ("group", "response", "score", "accuracy", "components", "tokens", "extracted", "status"):
            assert ours.rows[name] == theirs.rows[name], name
        for name in ("logprob", "advantage"):
            pairs = list(zip(ours.rows[name], theirs.rows[name], strict=True))
            assert all((here is None) == (there is None) for here, there in pairs), name
            there = [number or 0 for _, number in pairs]
            assert [number or 0 for number, _ in pairs] == pytest.approx(there, rel=1e-5, abs=1e-6), name


def test_a_broken_parquet_is_replaced_by_its_jsonl(real_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "step_000001.parquet"
    broken.write_bytes(b"no")
    files = RecordFiles("training", 1, False, broken, real_run / "rollouts" / "step_000001.jsonl")
    notes: list[str] = []
    chunks: dict[str, bytes] = {}
    summary = write_page("k", [files], chunks.__setitem__, notes)
    assert summary is not None
    assert (summary.responses, summary.right + summary.wrong) == (16, 16)
    assert chunks.keys() == {"k.rows"}
    assert json.loads(gzip.decompress(chunks["k.rows"]))["parts"] == []
    assert "cannot be read as parquet" in notes[0]
    assert notes[0].endswith("read from step_000001.jsonl instead")
    torn = tmp_path / "step_000002.jsonl"
    torn.write_text((real_run / "rollouts" / "step_000002.jsonl").read_text() + '{"step": 2, "uid"\n')
    with pytest.raises(DataError, match=r"step_000002.jsonl, line 17: is not a JSON object"):
        read_responses(RecordFiles("training", 2, False, None, torn))
    torn.write_text('{"step": 2}\n')
    with pytest.raises(DataError, match="line 1: no key 'uid'; is it a record of responses"):
        read_responses(RecordFiles("training", 2, False, None, torn))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'reasoner_rl\[report\]'"):
        vendored.plotly_js()


def test_responses_in_the_terminal(
    real_run: Path, hostile_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect(real_run, None, None, Choice(verdict="right", limit=2), "logprob")
    out = capsys.readouterr().out
    lines = [row for file in (real_run / "rollouts").glob("step_000004*.jsonl") for row in read_lines(file)]
    right = sum(row["accuracy"] for row in lines)
    assert f"training, step 4: 2 shown of {right:.0f} that pass, {len(lines)} in all" in out.replace(
        "\n", " "
    )
    inspect(hostile_run / "rollouts" / "step_000001.parquet", None, None, Choice(search="SCRIPT>"), None)
    assert "</script><script>window.broken = 1</script>" in capsys.readouterr().out.replace("\n", " ")
    monkeypatch.setenv("COLUMNS", "40")
    inspect(real_run, None, None, Choice(limit=1), None)
    assert "…─╮" in capsys.readouterr().out
    monkeypatch.delenv("COLUMNS")
    inspect(real_run, None, None, Choice(status="okay"), None)
    out = capsys.readouterr().out.replace("\n", " ")
    assert "0 shown of 0 that pass" in out
    assert "--status okay: this step has ok" in out
    assert "Did you mean 'ok'?" in out
    with pytest.raises(ConfigError, match=r"--step 9: .*has 3 from 0 to 4, and the nearest is 4"):
        inspect(real_run, "heldout", 9, Choice(), None)
    with pytest.raises(ConfigError, match=r"--set held: must be one of training, held out: heldout."):
        inspect(real_run, "held", None, Choice(), None)
    with pytest.raises(ConfigError, match="is not a regular expression"):
        inspect(real_run, None, None, Choice(search="("), None)
    with pytest.raises(ConfigError, match="read from JSONL, which has no per-token columns"):
        inspect(hostile_run, None, 2, Choice(), "gap")


def test_the_terminal_colours_tokens(hostile_run: Path) -> None:
    files = find_records(hostile_run, [])[0]
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    responses = read_responses(files)
    show_responses(files, responses, Choice(limit=1), "logprob", find_pieces(hostile_run, {}, []), console)
    # Token 10 has logprob -1 of 5: (1/5)^0.7 = 0.324 of the orange.
    assert "48;2;69;30;0m" in console.file.getvalue()  # type: ignore[attr-defined]
