"""The parquet record: what goes in comes out, and what is wrong with a file is said."""

from __future__ import annotations

import dataclasses
import errno
import math
import re
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoner_rl.errors import DataError
from reasoner_rl.observability import rollout_table
from reasoner_rl.observability.rollout_rows import record, rows_of_groups
from reasoner_rl.observability.rollout_table import (
    SCHEMA,
    groups_of,
    read_rollouts,
    read_rows,
    write_rollouts,
)
from reasoner_rl.types import Prompt, Reward, Rollout, ScoredGroup, TrainSample

GROUP = ScoredGroup(
    Prompt("math/3", (5, 6), "What is 1+1? ✓", "2", "math", {"index": 3, "nested": {"a": [1, 2.5, None]}}),
    (
        Rollout((7, 8, 2), (-0.5, -1.5, -0.25), "stop", 4, "Answer: 2 ✓", switches=((2, 6),)),
        Rollout((), (), "length", 3, ""),
    ),
    (
        Reward(
            0.9, 1.0, {"math": 1.0, "overlong": -0.1}, extracted="2", seconds=0.25, second_opinion="right"
        ),
        Reward(-1.0, None, {}, status="timeout", trained=False),
    ),
)


def sample(advantages: list[float], old: list[float] | None) -> TrainSample:
    """What was made of a response; its second token is not trained."""
    tokens = len(advantages)
    return TrainSample(
        prompt_ids=torch.tensor([5, 6]),
        response_ids=torch.arange(tokens),
        loss_mask=torch.arange(tokens) != 1,
        weight=1.5,
        advantages=torch.tensor(advantages),
        rollout_logprobs=torch.zeros(tokens),
        old_logprobs=None if old is None else torch.tensor(old),
        entropies=None if old is None else torch.tensor([0.125, 0.0, 2.5]),
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "rollouts" / "step_000012.parquet"
    samples = [sample([0.5, -1.0, 2.0], [-0.75, -1.25, -0.5]), sample([], None)]
    write_rollouts(path, 12, [GROUP], samples)
    return path


def test_every_column_holds_what_was_decided(written: Path) -> None:
    table = read_rollouts(written)
    assert table.schema == SCHEMA
    assert list(pq.read_schema(written).types) == SCHEMA.types, "for any other reader, too"
    assert table.to_pylist() == [
        {
            "step": 12,
            "group": 0,
            "uid": "math/3",
            "data_source": "math",
            "prompt": "What is 1+1? ✓",
            "prompt_ids": [5, 6],
            "response": "Answer: 2 ✓",
            "token_ids": [7, 8, 2],
            "logprobs": [-0.5, -1.5, -0.25],
            "trainer_logprobs": [-0.75, -1.25, -0.5],
            "entropies": [0.125, 0.0, 2.5],
            "advantages": [0.5, -1.0, 2.0],
            "loss_mask": [True, False, True],
            "weight": 1.5,
            "ground_truth": "2",
            "extra_info": '{"index": 3, "nested": {"a": [1, 2.5, null]}}',
            "score": 0.9,
            "accuracy": 1.0,
            "components": [("math", 1.0), ("overlong", -0.1)],
            "status": "ok",
            "extracted": "2",
            "second_opinion": "right",
            "trained": True,
            "tokens": 3,
            "finish_reason": "stop",
            "policy_version": 4,
            "policy_switches": [2, 6],
            "seconds": 0.25,
        },
        {
            "step": 12,
            "group": 0,
            "uid": "math/3",
            "data_source": "math",
            "prompt": "What is 1+1? ✓",
            "prompt_ids": [5, 6],
            "response": "",
            "token_ids": [],
            "logprobs": [],
            "trainer_logprobs": None,
            "entropies": None,
            "advantages": [],
            "loss_mask": [],
            "weight": 1.5,
            "ground_truth": "2",
            "extra_info": '{"index": 3, "nested": {"a": [1, 2.5, null]}}',
            "score": -1.0,
            "accuracy": None,
            "components": [],
            "status": "timeout",
            "extracted": None,
            "second_opinion": None,
            "trained": False,
            "tokens": 0,
            "finish_reason": "length",
            "policy_version": 3,
            "policy_switches": [],
            "seconds": 0.0,
        },
    ]


def test_without_samples_what_the_trainer_says_is_null(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.parquet", 0, [GROUP])
    table = read_rollouts(tmp_path / "a.parquet")
    for name in ("trainer_logprobs", "entropies", "advantages", "loss_mask", "weight"):
        assert table[name].to_pylist() == [None, None], name
    with pytest.raises(ValueError, match="one for each"):
        write_rollouts(tmp_path / "a.parquet", 0, [GROUP], [sample([1.0], None)])
    assert groups_of(read_rollouts(tmp_path / "a.parquet")) == [GROUP], "the file is as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_files_from_before_a_column_was_added_are_read(written: Path) -> None:
    before, added = pq.read_table(written), ["entropies", "policy_switches", "weight", "second_opinion"]
    pq.write_table(before.drop_columns(added), written)
    table = read_rollouts(written)
    assert table.schema == SCHEMA
    assert [table[name].to_pylist() for name in added] == [[None, None]] * 4
    assert table.drop_columns(added) == before.drop_columns(added)
    assert [rollout.switches for rollout in groups_of(table)[0].rollouts] == [(), ()]


def test_no_groups_are_a_table_too(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.parquet", 0, [])
    table = read_rollouts(tmp_path / "a.parquet")
    assert (table.num_rows, table.schema, groups_of(table)) == (0, SCHEMA, [])


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
# Infinities of both signs have a mean that is NaN, which equals nothing; one sign is enough here.
FLOATS = st.floats(width=32, allow_nan=False, min_value=-(2.0**100))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def groups(draw: Any) -> ScoredGroup:
    prompt = Prompt(
        draw(TEXTS),
        tuple(draw(st.lists(st.integers(0, 2**31 - 1), max_size=3))),
        *(draw(TEXTS) for _ in range(3)),
        draw(st.dictionaries(st.text(), JSON, max_size=3)),
    )
    rollouts, rewards = [], []
    for tokens in draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)):
        ids = tuple(draw(st.lists(st.integers(0, 2**31 - 1), min_size=tokens, max_size=tokens)))
        logprobs = tuple(draw(st.lists(FLOATS, min_size=tokens, max_size=tokens)))
        version = draw(st.integers(0, 2**62))
        rollouts.append(
            Rollout(ids, logprobs, draw(st.sampled_from(["stop", "length"])), version, draw(TEXTS))
        )
        rewards.append(
            Reward(
                draw(st.floats(allow_nan=False)),
                draw(st.none() | st.floats(0, 1)),
                draw(st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=3)),
                draw(TEXTS),
                draw(st.none() | TEXTS),
                draw(st.booleans()),
                draw(st.floats(0, 100)),
            )
        )
    return ScoredGroup(prompt, tuple(rollouts), tuple(rewards))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(groups(), max_size=4), st.sampled_from([1, 1 << 20]))
def test_groups_come_back_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_groups: list[ScoredGroup], row_group: int
) -> None:
    monkeypatch.setattr(rollout_table, "_TOKENS_PER_ROW_GROUP", row_group)
    path = tmp_path / "a.parquet"
    write_rollouts(path, 3, given_groups)
    table = read_rollouts(path)
    again = groups_of(table)
    assert again == given_groups
    assert repr(again) == repr(given_groups), "also -0.0 and True beside 1"
    assert table["seconds"].to_pylist() == [r.seconds for group in given_groups for r in group.rewards]
    assert list(map(record, read_rows(path))) == list(map(record, rows_of_groups(3, given_groups)))


def test_the_same_prompt_in_two_groups_stays_two_groups(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.parquet", 0, [GROUP, GROUP])
    write_rollouts(tmp_path / "b.parquet", 1, [GROUP])
    tables = [read_rollouts(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    assert groups_of(pa.concat_tables(tables)) == [GROUP] * 3


def test_text_that_utf8_cannot_hold_is_escaped_and_json_is_exact(tmp_path: Path) -> None:
    prompt = Prompt("p", (), "", "2", "math", {"a\ud800": "b\udfff", "n": math.nan})
    group = ScoredGroup(prompt, (Rollout((), (), "stop", 0, "x\udc80y"),), (Reward(0.0, 0.0, {}),))
    write_rollouts(tmp_path / "a.parquet", 0, [group])
    [again] = groups_of(read_rollouts(tmp_path / "a.parquet"))
    assert again.rollouts[0].text == "x\\udc80y"
    assert again.prompt.extra_info == {"a\ud800": "b\udfff", "n": None}


def test_a_long_step_is_cut_into_row_groups_and_repetition_costs_little(tmp_path: Path) -> None:
    """Of 16 responses of 80,000 tokens, 14 make more than a million."""
    tokens = 80_000
    logprobs = torch.rand(tokens, generator=torch.Generator().manual_seed(0)).tolist()
    rollout = Rollout(tuple(range(tokens)), tuple(logprobs), "length", 7, "")
    group = ScoredGroup(GROUP.prompt, (rollout,) * 16, (Reward(1.0, 1.0, {}),) * 16)
    made = [sample([], None).replace(advantages=torch.full((tokens,), 0.1)) for _ in range(16)]
    write_rollouts(tmp_path / "a.parquet", 0, [group], made)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [14, 2]
    sizes = {}
    for number in range(len(file.metadata.row_group(0).to_dict()["columns"])):
        column = file.metadata.row_group(0).column(number)
        sizes[column.path_in_schema.partition(".")[0]] = column.total_compressed_size / (14 * tokens)
    assert sizes["advantages"] < 0.01, "bytes per token"
    assert sizes["policy_version"] < 0.01
    assert sizes["logprobs"] < 4


def damaged(path: Path) -> None:
    """Change the last bit of what the logprobs' column holds."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    [column] = [found for found in columns if found.path_in_schema.startswith("logprobs.")]
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def test_a_file_that_is_no_parquet_is_named(written: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"step_000013\.parquet: cannot be read.*Did you mean 'step_000012.parquet'"
    ):
        read_rollouts(written.with_name("step_000013.parquet"))
    whole = written.read_bytes()
    for content in (b"", b"no parquet at all", whole[:-20], whole[:4] + whole[-40:]):
        written.write_bytes(content)
        with pytest.raises(DataError, match=rf"^{re.escape(str(written))}: cannot be read as parquet: "):
            read_rollouts(written)
    written.write_bytes(whole)
    damaged(written)
    with pytest.raises(DataError, match=r"step_000012\.parquet: cannot be read as parquet: .*CRC"):
        read_rollouts(written)
    with pytest.raises(DataError, match=rf"^{re.escape(str(tmp_path))}: cannot be read as parquet"):
        read_rollouts(tmp_path)


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.drop(["logprobs"]),
            r"no column 'logprobs'; found step, .*\. Did you mean 'trainer_logprobs'\?",
        ),
        (
            lambda t: replaced(t, "token_ids", pa.array(["7 8", "9"])),
            r"column 'token_ids' must be list<.*int32>; it is string",
        ),
        (
            lambda t: replaced(t, "token_ids", pa.array([[1 << 40], []])),
            r"column 'token_ids' must be list<.*int32>; it is list<.*int64> \(Integer value 1099511627776 not in range",
        ),
        (
            lambda t: replaced(t, "response", pa.array([None, "b"])),
            "column 'response' must not be null; 1 values are",
        ),
        (
            lambda t: replaced(t, "extra_info", pa.array(["{}", "{"])),
            "column 'extra_info' is not valid JSON: Expecting",
        ),
        (
            lambda t: replaced(t, "extra_info", pa.array(["{}", "[1]"])),
            r"column 'extra_info' must hold JSON objects; one is \[1\]",
        ),
    ],
)
def test_what_is_wrong_with_a_column_is_said(written: Path, change: Any, said: str) -> None:
    pq.write_table(change(pq.read_table(written)), written)
    with pytest.raises(DataError, match=rf"^{re.escape(str(written))}: {said}"):
        read_rollouts(written)


def test_a_file_that_another_program_wrote_again_is_read(written: Path) -> None:
    """Wider types, columns in another order, and more of them, as data frames leave them."""
    table = pq.read_table(written)
    wide = {
        "token_ids": pa.list_(pa.int64()),
        "logprobs": pa.large_list(pa.float64()),
        "uid": pa.large_string(),
    }
    for name, kind in wide.items():
        table = replaced(table, name, table[name].cast(kind))
    table = table.append_column("note", pa.array(["a", "b"])).select([*reversed(table.column_names), "note"])
    pq.write_table(table, written)
    assert groups_of(read_rollouts(written)) == [GROUP]


def test_a_full_disk_names_the_file_and_leaves_the_previous_one(written: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    written.with_name(f".{written.name}.tmp").symlink_to("/dev/full")
    before = written.read_bytes()
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_rollouts(written, 12, [GROUP])
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(written))
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_the_documentation_has_every_column_in_its_type(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "records.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE)
    kinds = {"double": "float64", "float": "float32", "string": "text"}

    def named(kind: pa.DataType) -> str:
        if pa.types.is_list(kind):
            return f"list of {named(kind.value_type)}"
        if pa.types.is_map(kind):
            return f"map from {named(kind.key_type)} to {named(kind.item_type)}"
        return kinds.get(str(kind), str(kind))

    assert rows == [
        (field.name, named(field.type) + (" or null" if field.nullable else "")) for field in SCHEMA
    ]


def test_rows_read_back_are_the_rows_written(tmp_path: Path) -> None:
    """Column by column against Arrow's own conversion, which makes a Python object per number."""
    groups = [GROUP, dataclasses.replace(GROUP, rollouts=GROUP.rollouts[::-1], rewards=GROUP.rewards[::-1])]
    write_rollouts(tmp_path / "a.parquet", 7, groups)
    rows, plain = list(read_rows(tmp_path / "a.parquet")), read_rollouts(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == len(plain) == 4
    for row, other in zip(rows, plain, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            if isinstance(row[name], numpy.ndarray):
                assert row[name].tolist() == value, name
            elif name not in ("extra_info", "components"):
                assert row[name] == value, name
    assert rows[0]["advantages"] is None
    assert rows[0]["token_ids"].dtype == numpy.int32
