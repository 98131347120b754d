"""The tables of names in docs/how_to/from_verl.md and from_trl.md say what the translations do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from reasoner_rl.config.translate.terms import Vocabulary
from reasoner_rl.config.translate.trl_keys import TRL
from reasoner_rl.config.translate.verl_keys import VERL

_ROW = re.compile(r"^\| `([\w.]+)` \| (.*) \|$", re.MULTILINE)
_CODE = re.compile(r"`([\w.]+)`")


@pytest.mark.parametrize(("page", "vocabularies"), [("from_verl", {"": VERL}), ("from_trl", TRL)])
def test_a_table_has_the_translations_names(
    page: str, vocabularies: Mapping[str, Vocabulary], repository: Path
) -> None:
    text = (repository / "docs" / "how_to" / f"{page}.md").read_text(encoding="utf-8")
    names = text.partition("## Names")[2].partition("## What behaves")[0].partition("And of the")[0]
    rows = _ROW.findall(names)
    assert len(rows) > 30
    for theirs, here in rows:
        ours = {words.terms[theirs].ours for words in vocabularies.values() if theirs in words.terms}
        assert ours & set(_CODE.findall(here)), f"{page}: {theirs} is {sorted(ours)}, and not {here}"
