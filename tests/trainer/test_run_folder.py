"""The folder of a run: made for it, kept for it alone, and gone again when the run was refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasoner_rl.errors import ConfigError
from reasoner_rl.trainer.folder import exclusive_folder


def use(folder: Path, *files: str, refuse: bool = True) -> None:
    with exclusive_folder(folder, "--out"):
        for name in files:
            (folder / name).touch()
        if refuse:
            raise ConfigError("refused")


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="refused"):
        use(tmp_path / "runs" / "first")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="refused"):
        use(tmp_path / "mine")
    with pytest.raises(ConfigError, match="refused"):
        use(tmp_path / "runs" / "begun", "recipe.yaml")
    use(tmp_path / "runs" / "done", refuse=False)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name != ".lock")
    assert found == ["mine", "runs", "runs/begun", "runs/begun/recipe.yaml", "runs/done"]


def test_another_process_is_kept_out_and_takes_nothing_away(tmp_path: Path) -> None:
    with exclusive_folder(tmp_path / "run", "--out"):
        with pytest.raises(ConfigError, match=r"--out=.*run: another run is writing there"):
            use(tmp_path / "run")
        assert (tmp_path / "run" / ".lock").exists()
