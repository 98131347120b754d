"""The data sets that `reasoner-rl data prepare` has by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reasoner_rl.config.data import ColumnMap
from reasoner_rl.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A published data set: where it is, what it is, and how its rows read."""

    name: str
    title: str
    repository: str  # of data sets, on the Hugging Face hub
    files: Mapping[
        str, str
    ]  # split -> pattern of its files in the repository; the first split is the default
    problems: Mapping[str, int]  # split -> distinct problems, where the publisher states their number exactly
    used_for: Literal["training", "evaluation", "both"]
    reference: str
    licence: str
    data_source: str  # of flat rows; it chooses the rule of reward_fns. Rows in verl's format name their own.
    columns: ColumnMap | None = None  # of flat rows as the publisher names them; None: rows in verl's format

    @property
    def default_split(self) -> str:
        """The split that is prepared unless another is asked for."""
        return next(iter(self.files))

    def stem(self, split: str) -> str:
        """The name of the prepared files."""
        return self.name if len(self.files) == 1 else f"{self.name}-{split}"


_SETS = (
    NamedSet(
        name="dapo-math-17k",
        title="DAPO-Math-17K: competition problems with integer answers",
        repository="BytedTsinghua-SIA/DAPO-Math-17k",
        files={"train": "data/dapo-math-17k.parquet"},
        problems={},  # "17k"
        used_for="training",
        reference="Yu et al. 2025, arXiv:2503.14476",
        licence="Apache-2.0",
        data_source="math_dapo",
    ),
    NamedSet(
        name="aime-2024",
        title="American Invitational Mathematics Examination 2024, I and II",
        repository="BytedTsinghua-SIA/AIME-2024",
        files={"test": "data/aime-2024.parquet"},
        problems={"test": 30},
        used_for="evaluation",
        reference="Mathematical Association of America; published with arXiv:2503.14476",
        licence="see the repository's card",
        data_source="math_dapo",
    ),
    NamedSet(
        name="aime-2025",
        title="American Invitational Mathematics Examination 2025, I and II",
        repository="math-ai/aime25",
        files={"test": "test.jsonl"},
        problems={"test": 30},
        used_for="evaluation",
        reference="Mathematical Association of America",
        licence="Apache-2.0",
        data_source="aime_2025",
        columns=ColumnMap(problem="problem", answer="answer", id="id", extra=[]),
    ),
    NamedSet(
        name="math-500",
        title="MATH-500: 500 test problems of MATH",
        repository="HuggingFaceH4/MATH-500",
        files={"test": "test.jsonl"},
        problems={"test": 500},
        used_for="evaluation",
        reference="Hendrycks et al. 2021, arXiv:2103.03874; the selection of Lightman et al. 2023, arXiv:2305.20050",
        licence="MIT",
        data_source="math_500",
        columns=ColumnMap(problem="problem", answer="answer", id="unique_id", extra=["subject", "level"]),
    ),
    NamedSet(
        name="gsm8k",
        title="GSM8K: grade-school word problems",
        repository="openai/gsm8k",
        files={"train": "main/train-*.parquet", "test": "main/test-*.parquet"},
        problems={"train": 7473, "test": 1319},
        used_for="both",
        reference="Cobbe et al. 2021, arXiv:2110.14168",
        licence="MIT",
        data_source="gsm8k",
        columns=ColumnMap(problem="question", answer="answer", answer_form="hash", extra=[]),
    ),
    NamedSet(
        name="amc23",
        title="American Mathematics Competitions 2023, the problems with integer answers",
        repository="math-ai/amc23",
        files={"test": "test-*.parquet"},
        problems={"test": 40},
        used_for="evaluation",
        reference="Mathematical Association of America",
        licence="Apache-2.0",
        data_source="amc23",
        columns=ColumnMap(problem="question", answer="answer", id="id", extra=[]),
    ),
    NamedSet(
        name="deepmath",
        title="DeepMath-103K: hard problems with LaTeX answers and difficulty",
        repository="zwhe99/DeepMath-103K",
        files={"train": "data/train-*.parquet"},
        problems={},
        used_for="training",
        reference="He et al. 2025, arXiv:2504.11456",
        licence="MIT",
        data_source="deepmath",
        columns=ColumnMap(problem="question", answer="final_answer", extra=["difficulty", "topic"]),
    ),
    NamedSet(
        name="asdiv",
        title="ASDiv-A: arithmetic word problems of the elementary school",
        repository="MU-NLPC/Calc-asdiv_a",
        files={"test": "data/test-*.parquet"},
        problems={},
        used_for="training",
        reference="Miao et al. 2020, arXiv:2106.15772",
        licence="CC-BY-NC-4.0",
        data_source="asdiv",
        columns=ColumnMap(problem="question", answer="result", id="id", extra=[]),
    ),
    NamedSet(
        name="mawps",
        title="MAWPS: word problems of one or two steps",
        repository="MU-NLPC/Calc-mawps",
        files={
            "train": "data/train-*.parquet",
            "validation": "data/validation-*.parquet",
            "test": "data/test-*.parquet",
        },
        problems={},
        used_for="both",
        reference="Koncel-Kedziorski et al., NAACL 2016",
        licence="MIT",
        data_source="mawps",
        columns=ColumnMap(problem="question", answer="result", id="id", extra=[]),
    ),
    NamedSet(
        name="svamp",
        title="SVAMP: variations of word problems of ASDiv",
        repository="MU-NLPC/Calc-svamp",
        files={"test": "data/test-*.parquet"},
        problems={"test": 1000},
        used_for="evaluation",
        reference="Patel et al. 2021, arXiv:2103.07191",
        licence="MIT",
        data_source="svamp",
        columns=ColumnMap(problem="question", answer="result", id="id", extra=[]),
    ),
)
CATALOG: Mapping[str, NamedSet] = {entry.name: entry for entry in _SETS}


def split_of(entry: NamedSet, split: str | None) -> str:
    """The split that is asked for, or the default one. Raises ConfigError for one that the set does not have."""
    if split is None:
        return entry.default_split
    if split not in entry.files:
        near = did_you_mean(split, entry.files)
        raise ConfigError(f"--split {split}: {entry.name} has {', '.join(entry.files)}.{near}")
    return split
