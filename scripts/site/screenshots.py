#!/usr/bin/env python3
"""Takes the documentation's pictures of a finished online run anew: its curves, and its report in a browser.

    bash scripts/quickstart.sh
    python scripts/site/screenshots.py runs/quickstart/rl                     renews those in docs/images
    python scripts/site/screenshots.py RUN --name mine --step 2 --out FOLDER

report_curves.png is the tab with the curves, report_rollouts.png a held-out problem across steps, report_tokens.png a
group of a training step side by side, with tokens coloured by logprob, and NAME_curves.png the run's own picture. Look
at the result, and bring the figures in the captions up to date.

Needs the extras report and dev (playwright), and a Chromium of the system's. The run must have held-out responses and
records in parquet.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this repository's reasoner_rl

from reasoner_rl.commands.report import report
from reasoner_rl.errors import DataError
from reasoner_rl.observability.curves import plot_curves

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WIDTH, HEIGHT = 1440, 1060
STEP = 4  # of the quickstart: about half of its responses are right
_ALL_MIB = 1024.0  # so that the responses are in the page itself


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures."""
    options = parse(arguments)
    step = checked_step(options.run, options.step)
    options.out.mkdir(parents=True, exist_ok=True)
    plot_curves(options.run / "metrics.jsonl", options.out / f"{options.name}_curves.png")
    shots: dict[str, Callable[[Page], None]] = {
        "report_curves.png": show_curves,
        "report_rollouts.png": show_a_problem_across_steps,
        "report_tokens.png": lambda page: show_a_group(page, step),
    }
    with tempfile.TemporaryDirectory() as folder:
        file = report([options.run], Path(folder) / "report.html", 1, _ALL_MIB)
        take(file, options.out, shots)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished online run")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures (docs/images)")
    parser.add_argument("--name", default="quickstart", help="of the picture of curves (quickstart)")
    parser.add_argument("--step", type=int, default=STEP, help=f"whose group is shown ({STEP})")
    return parser.parse_args(arguments)


def checked_step(run: Path, step: int) -> int:
    """The step. Raises DataError, naming what is missing, unless the run has what the pictures show."""
    record = run / "rollouts" / f"step_{step:06d}.parquet"
    if not record.is_file():
        raise DataError(f"{record} is missing: choose a recorded step with --step")
    if not any((run / "evaluations").glob("step_*")):
        raise DataError(f"{run / 'evaluations'} holds no held-out responses: the run must evaluate")
    return step


def take(file: Path, out: Path, shots: dict[str, Callable[[Page], None]]) -> None:
    """Open the report in the system's Chromium and photograph what each function of ``shots`` brings up."""
    from playwright.sync_api import sync_playwright

    path = which("chromium") or which("chromium-browser") or which("google-chrome")
    if path is None:
        raise DataError("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        for name, show in shots.items():
            show(page)
            page.mouse.move(0, HEIGHT - 1)
            page.screenshot(path=out / name)
        browser.close()


def show_curves(page: Page) -> None:
    """The first charts, drawn."""
    page.click("[data-tab=curves]")
    page.wait_for_selector(".chart[data-drawn=yes]")
    page.wait_for_timeout(500)  # those beside it, within the window


def show_a_problem_across_steps(page: Page) -> None:
    """The first held-out problem of the last evaluation, and its answers in all of them."""
    page.click("[data-tab=responses]")
    sets = page.eval_on_selector_all("#filter-set option", "found => found.map(one => one.value)")
    page.select_option("#filter-set", next(name for name in sets if name.startswith("held out: ")))
    page.wait_for_selector("#pane h2:has-text('Step')")
    page.click("#list .item >> nth=0")
    choose(page, "[data-beside=steps]")
    page.wait_for_selector(".column .link:has-text('step ')")


def show_a_group(page: Page, step: int) -> None:
    """The first group of a training step side by side, by logprob."""
    page.select_option("#filter-set", "training")
    page.select_option("#filter-step", str(step))
    page.wait_for_selector(f"#pane h2:has-text('Step {step}')")
    page.click("#list .item >> nth=0")
    choose(page, "[data-beside=siblings]")
    choose(page, "[data-view=logprob]")
    page.wait_for_selector(".column .tokens span")


def choose(page: Page, button: str) -> None:
    """Press a button unless it is chosen already, and wait until it is."""
    page.wait_for_selector(f"{button}:not(:disabled)")
    if "chosen" not in (page.get_attribute(button, "class") or ""):
        page.click(button)
    page.wait_for_selector(f"{button}.chosen")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
