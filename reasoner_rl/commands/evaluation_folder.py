"""The folder of one evaluation: its result, or the parts of a result that is not finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from reasoner_rl.errors import ConfigError, DataError
from reasoner_rl.evaluation.result import RESULT_FILE, EvaluationResult, Settings, differences, read_result
from reasoner_rl.observability.summary import write_json

NOTE = "evaluation_settings.json"  # settings of an evaluation that is not finished
_REMEDY = "choose another folder with --out (or run.output_dir), or delete this one"
_SHOWN = 6  # settings that differ


class EvaluationFolder:
    """Keeps an evaluation in a folder of its own.

    Raises ConfigError if the folder holds an evaluation with other settings, something else, or, with ``resume``
    "never", any evaluation; DataError if what it holds cannot be read.
    """

    def __init__(self, folder: Path, settings: Settings, resume: Literal["auto", "never"]) -> None:
        self.settings = settings
        self.result = folder / RESULT_FILE
        self.parts = folder / "parts"
        self._note = folder / NOTE
        begun = self.result.exists() or self._note.exists()
        if begun and resume == "never":
            what = "a finished evaluation" if self.result.exists() else "an evaluation that is not finished"
            raise ConfigError(f"run.resume=never: {folder} holds {what}: {_REMEDY}")
        if not begun and (folder / "recipe.yaml").exists():
            raise ConfigError(f"{folder} holds a run that is no evaluation: {_REMEDY}")
        self._finished = read_result(self.result) if self.result.exists() else None
        if begun:
            _check_same(folder, self._settings_there(), settings)

    def finished(self) -> EvaluationResult | None:
        """The result, if there is one; parts that an interruption left beside it are removed."""
        if self._finished is not None:
            self._remove_parts()
        return self._finished

    def begin(self, problems_per_part: int) -> int:
        """Write the settings down. Returns the number of problems per part, that of an earlier start if any."""
        if self._note.exists():
            return int(_read_note(self._note)["problems_per_part"])
        write_json(
            self._note,
            {"problems_per_part": problems_per_part, "settings": self.settings.model_dump(mode="json")},
        )
        return problems_per_part

    def finish(self, result: EvaluationResult) -> None:
        """Write the result, and remove the parts, whose responses are in evaluations/ now."""
        write_result(self.result, result)
        self._remove_parts()

    def _remove_parts(self) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)
        self._note.unlink(missing_ok=True)

    def _settings_there(self) -> Settings:
        if self._finished is not None:
            return self._finished.settings
        try:
            return Settings.model_validate(_read_note(self._note)["settings"])
        except ValidationError as error:
            raise DataError(f"{self._note}: {error.errors()[0]['msg']}: {_REMEDY}") from None


def write_result(path: Path, result: EvaluationResult) -> None:
    """Write a result file."""
    write_json(path, result.model_dump(mode="json"))


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(note, dict) or not {"problems_per_part", "settings"} <= note.keys():
            raise ValueError("must hold problems_per_part and settings")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}: {_REMEDY}") from error
    return note


def _check_same(folder: Path, there: Settings, now: Settings) -> None:
    changed = differences(there, now)
    if changed:
        lines = [f"  {key}: {old} there, {new} now" for key, old, new in changed[:_SHOWN]]
        if len(changed) > _SHOWN:
            lines.append(f"  and {len(changed) - _SHOWN} more")
        listed = "\n".join(lines)
        raise ConfigError(f"{folder} holds another evaluation: {_REMEDY}. What differs:\n{listed}")
