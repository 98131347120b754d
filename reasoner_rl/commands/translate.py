"""`reasoner-rl config from-verl` and `from-trl`: a recipe of settings that were written for another framework."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from reasoner_rl.config.load import check_text
from reasoner_rl.config.translate.sources import trl_settings, verl_settings
from reasoner_rl.config.translate.terms import Translation
from reasoner_rl.config.translate.trl import method_of, translate_trl
from reasoner_rl.config.translate.verl import translate_verl
from reasoner_rl.config.translate.write import summary, write_recipe
from reasoner_rl.errors import ConfigError
from reasoner_rl.observability.summary import atomic_writer


def from_verl(arguments: Sequence[str], out: Path | None, rows: int | None) -> None:
    """Translate verl's settings. Raises ConfigError where they make no recipe that can run."""
    _give(translate_verl(verl_settings(arguments), rows), out)


def from_trl(path: Path, out: Path | None, method: str | None, devices: int | None, rows: int | None) -> None:
    """Translate TRL's arguments. Raises ConfigError where they make no recipe that can run."""
    given, named, processes = trl_settings(path)
    trainer = method_of(given, method or named)
    _give(translate_trl(given, trainer, devices or processes or 1, rows), out)


def _give(translation: Translation, out: Path | None) -> None:
    """Print a recipe, or write it to a file that is not there yet."""
    text = write_recipe(translation)
    try:
        check_text(text, "the translation")
    except ConfigError as error:
        raise ConfigError(
            f"these settings of {translation.framework} make no recipe that can run:\n{error}"
        ) from None
    if out is None:
        sys.stdout.write(text)
    else:
        if out.exists():
            raise ConfigError(f"--out {out}: exists already; name another file, or remove it")
        with atomic_writer(out) as file:
            file.write(text)
    place = "" if out is None else f"{out}: "
    sys.stderr.write(f"{place}{summary(translation)}; the comments say which\n")
