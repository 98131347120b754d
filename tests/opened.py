"""A page of a report in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoner_rl.commands.report import report
from reasoner_rl.observability.rollout_table import read_rollouts
from reasoner_rl.observability.sinks import read_jsonl


class Opened:
    """A page in the browser, with what it said on the console and asked the network for."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_page(viewport={"width": 1500, "height": 1000})
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=yes]")

    def tab(self, name: str) -> None:
        self.page.click(f"[data-tab={name}]")

    def count(self, text: str) -> None:
        """Wait until the line above the list says ``text``."""
        self.wait("text => document.getElementById('count').textContent === text", text)

    def choose(self, **fields: str) -> None:
        for name, value in fields.items():
            self.page.select_option(f"#filter-{name}", value)

    def texts(self, selector: str) -> list[str]:
        return self.page.eval_on_selector_all(selector, "found => found.map(one => one.textContent)")

    def response(self) -> str:
        return self.page.inner_text(".response")

    def wait(self, expression: str, argument: Any = None) -> None:
        """Poll until an expression is true. The page's content policy forbids what wait_for_function does."""
        for _ in range(600):
            if self.page.evaluate(expression, argument):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never true: {expression}, {argument!r}; {self.page.inner_text('body')[:2000]}")


def check_report(browser: Any, run: Path, out: Path) -> None:
    """Write the report of a finished online run to ``out`` and compare what a browser shows of it with its files.

    Curves of the reward and of the evaluation sets, responses of the last step by verdict and by search, one
    response with its tokens; no error on the console, and no request but of the page itself. The test is skipped
    without the packages of a report.
    """
    pytest.importorskip("plotly", reason="plotly is not installed: pip install '.[report]'")
    pytest.importorskip(
        "sphinxcontrib.katex", reason="sphinxcontrib-katex is not installed: pip install '.[report]'"
    )
    report([run], out, 1, 64)
    opened = Opened(browser, out.as_uri())
    rows = read_jsonl(run / "metrics.jsonl")
    _check_curves(opened, run.name, rows)
    _check_responses(opened, run, max(row["step"] for row in rows))
    assert opened.errors == []
    assert opened.requests == [out.as_uri()]
    opened.page.close()


def _check_curves(opened: Opened, run: str, rows: Sequence[dict[str, Any]]) -> None:
    opened.tab("curves")
    opened.page.wait_for_selector(".card:has(h3:text('Reward')) .chart[data-drawn=yes]")
    lines = opened.page.eval_on_selector_all(
        ".chart[data-drawn=yes]",
        "found => found.flatMap(one => one.data.map(({name, x, y}) => ({name, x, y})))",
    )
    curves = {"reward/score": "score"}
    for key in {key for row in rows for key in row if key.startswith("eval/") and key.endswith("/accuracy")}:
        curves[key] = f"held out: {key.split('/')[1]}"
    for metric, curve in curves.items():
        points = {row["step"]: row[metric] for row in rows if metric in row}
        line = next(line for line in lines if line["name"] in (curve, f"{run}: {curve}"))
        assert dict(zip(line["x"], line["y"], strict=True)) == pytest.approx(points, rel=1e-5)


def _check_responses(opened: Opened, run: Path, step: int) -> None:
    table = read_rollouts(run / "rollouts" / f"step_{step:06d}.parquet").to_pylist()
    dropped = run / "rollouts" / f"step_{step:06d}_dropped.parquet"
    table += read_rollouts(dropped).to_pylist() if dropped.exists() else []
    opened.tab("responses")
    opened.choose(step=str(step))
    opened.count(f"{len(table)} of {len(table)} responses")
    right = sum(row["accuracy"] >= 1 for row in table)
    assert 0 < right < len(table)
    opened.choose(verdict="right")
    opened.count(f"{right} of {len(table)} responses")
    opened.choose(verdict="all")
    first = table[0]
    opened.page.fill("#search", first["uid"])
    searched = ("response", "prompt", "uid", "ground_truth", "extracted")
    found = sum(any(first["uid"] in (row[field] or "") for field in searched) for row in table)
    opened.count(f"{found} of {len(table)} responses")
    opened.page.click("#list .item >> nth=0")
    opened.page.click("[data-view=logprob]")
    opened.page.wait_for_selector(".chosen[data-view=logprob]")
    tokens = opened.texts(".response .tokens span")
    assert len(tokens) == first["tokens"]
    assert "".join(tokens).startswith(first["response"])  # and then the token that ends it
