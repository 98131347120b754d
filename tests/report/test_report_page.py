"""The page of two runs in a headless Chromium: every number that is asserted is computed from the runs' files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_responses import HOSTILE, LONG_LINE, read_lines
from opened import Opened

from reasoner_rl.commands.report import report
from reasoner_rl.observability.rollout_table import read_rollouts

pytest.importorskip("plotly", reason="plotly is not installed: pip install '.[report]'")
pytest.importorskip(
    "sphinxcontrib.katex", reason="sphinxcontrib-katex is not installed: pip install '.[report]'"
)


@pytest.fixture(scope="module")
def opened(
    browser: Any, real_run: Path, hostile_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    out = tmp_path_factory.mktemp("page") / "report.html"
    report([real_run, hostile_run], out, 1, 64)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    found = Opened(browser, out.as_uri())
    yield found
    found.page.close()


def test_curves_of_two_runs_are_overlaid(opened: Opened, real_run: Path, hostile_run: Path) -> None:
    opened.tab("curves")
    opened.page.wait_for_selector(".card:has(h3:text('Reward')) .chart[data-drawn=yes]")
    curves = opened.page.eval_on_selector_all(
        ".chart[data-drawn=yes]", "found => found.map(one => one.data.map(({name, x, y}) => ({name, x, y})))"
    )
    reward = next(lines for lines in curves if any(line["name"] == "tiny: score" for line in lines))
    rows = [row for row in read_lines(real_run / "metrics.jsonl") if "reward/score" in row]
    ours = next(line for line in reward if line["name"] == "tiny: score")
    assert ours["x"] == [1, 2, 3, 4]
    assert ours["y"] == pytest.approx([row["reward/score"] for row in rows], rel=1e-5)
    theirs = [line for line in reward if line["name"] == "<b>hostile: score"]
    # Of 24 steps: the raw numbers, and over them the mean of three; the ends have two.
    assert theirs[0]["y"] == pytest.approx([0.1 * n for n in range(1, 25)])
    assert theirs[1]["y"] == pytest.approx([0.15, *(0.1 * n for n in range(2, 24)), 2.35])
    accuracy = next(
        lines for lines in curves if any(line["name"] == "tiny: held out: heldout" for line in lines)
    )
    assert next(line["x"] for line in accuracy if line["name"] == "tiny: held out: heldout") == [0, 2, 4]


def test_titles_of_curves_tell_what_the_metrics_mean(opened: Opened) -> None:
    def told(title: str) -> str:
        find = "title => [...document.querySelectorAll('h3')].find((one) => one.innerText.startsWith(title)).title"
        text: str = opened.page.evaluate(find, title)
        return text

    opened.tab("curves")
    reward, held_out = told("Reward (mean score)"), told("Accuracy")
    assert reward.startswith(
        "reward/score: score, mean over generated responses. The weighted sum of the reward"
    )
    assert [line.partition(":")[0] for line in held_out.split("\n\n")] == [
        "reward/accuracy",
        "eval/heldout/accuracy",
    ]
    opened.page.select_option("#any-metric", "train/lr")
    assert told("Any metric").startswith("train/lr: number, mean over the optimizer updates of the step. ")


def test_configuration_evaluations_and_events(opened: Opened, real_run: Path) -> None:
    opened.tab("configuration")
    page = opened.page
    page.fill("#key-search", "responses_per_prompt")
    assert opened.texts("#key-search + div td")[:2] == ["rollout.responses_per_prompt", "4"]
    assert "keys differ from" in page.inner_text("main")
    opened.tab("evaluations")
    rows = [row for row in read_lines(real_run / "metrics.jsonl") if "eval/heldout/accuracy" in row]
    shown = page.eval_on_selector_all(
        "tbody tr", "rows => rows.map(row => [row.cells[0], row.cells[1]].map(c => c.textContent))"
    )
    assert shown == [[str(row["step"]), f"{row['eval/heldout/accuracy']:.3f}"] for row in rows]
    opened.tab("events")
    assert opened.texts("tbody .badge")[:1] == ["start"]
    assert "end" in opened.texts("tbody .badge")
    notes = page.inner_text("main")
    assert "responses of step 3 left out" in notes
    assert "step_000003.parquet: cannot be read as parquet" in notes


def test_filters_and_search(opened: Opened, real_run: Path) -> None:
    opened.tab("responses")
    table = read_rollouts(real_run / "rollouts" / "step_000002.parquet").to_pylist()
    dropped = real_run / "rollouts" / "step_000002_dropped.parquet"
    table += read_rollouts(dropped).to_pylist() if dropped.exists() else []
    opened.choose(run="0", step="2")
    opened.count(f"{len(table)} of {len(table)} responses")
    right = sum(row["accuracy"] >= 1 for row in table)
    assert 0 < right < len(table)
    opened.choose(verdict="right")
    opened.count(f"{right} of {len(table)} responses")
    opened.choose(verdict="all", kind="truncated")
    opened.count(f"{sum(row['finish_reason'] == 'length' for row in table)} of {len(table)} responses")
    # A component of the reward, between bounds.
    opened.choose(kind="all", component="overlong")
    opened.page.fill("#filter-low", "-0.5")
    penalties = [dict(row["components"])["overlong"] for row in table]
    opened.count(f"{sum(penalty >= -0.5 for penalty in penalties)} of {len(table)} responses")
    opened.page.fill("#filter-low", "")
    opened.choose(component="none", run="1", step="1")
    opened.count("7 of 7 responses")
    for fields, count in (
        ({"kind": "dropped"}, 2),
        ({"kind": "all", "status": "timeout"}, 1),
        ({"status": "all"}, 7),
    ):
        opened.choose(**fields)
        opened.count(f"{count} of 7 responses")
    opened.page.fill("#search", "ALL wrong")
    opened.count("2 of 7 responses")
    opened.page.fill("#search", r"/surrogate|onerror/")
    opened.count("2 of 7 responses")
    opened.choose(scope="all")
    opened.count("6 of 17 responses")  # of steps 1, 2 and 4
    opened.page.fill("#search", "/(/")
    opened.wait("document.getElementById('count').textContent.startsWith('not a regular')")
    opened.page.fill("#search", "")
    opened.choose(scope="step", verdict="wrong", kind="kept")
    opened.count("3 of 7 responses")
    opened.choose(verdict="all", kind="all")
    opened.count("7 of 7 responses")


def test_text_is_shown_and_never_run(opened: Opened) -> None:
    opened.tab("responses")
    page = opened.page
    opened.choose(run="1", step="1")
    opened.count("7 of 7 responses")
    for number in (0, 1):
        page.click(f"#list .item >> nth={number}")
        opened.wait("text => document.querySelector('.response').innerText === text", HOSTILE[number])
    page.click("#list .item >> nth=2")
    opened.wait("document.querySelector('.response').innerText.startsWith('a lone surrogate')")
    assert opened.response() == HOSTILE[2].replace("\ud800", "\\ud800")  # as parquet holds it
    page.click("#list .item >> nth=3")
    page.wait_for_selector(".response .more:visible")
    assert page.inner_text(".response .more") == f"{len(LONG_LINE) - 20_000:,} more characters"
    page.click("#list .item >> nth=4")
    page.wait_for_selector(".response math")
    formulas = opened.texts(".response annotation")
    assert formulas == [r"\frac{1}{2}", "x^2", "y", r"\boxed{\text{<i>}}", r"\href{javascript:broken}{z}"]
    assert page.locator(".response mfrac").count() == 1
    assert page.locator("#pane a, #pane b b, #pane img, #pane script").count() == 0
    assert page.evaluate("window.broken") is None
    assert "<b>problem <1></b>" in page.inner_text("#pane details")


def test_tokens_are_coloured(opened: Opened, tiny_tokenizer: Any) -> None:
    opened.tab("responses")
    page = opened.page
    opened.choose(run="1", step="1")
    opened.count("7 of 7 responses")
    page.click("#list .item >> nth=0")
    opened.wait("text => document.querySelector('.response').innerText === text", HOSTILE[0])
    for view in ("advantage", "gap", "entropy", "logprob"):
        page.click(f"[data-view={view}]")
        page.wait_for_selector(f".chosen[data-view={view}]")
        tokens = opened.texts(".response .tokens span")
        ids = tiny_tokenizer.encode(HOSTILE[0], add_special_tokens=False)
        assert "".join(tokens) == HOSTILE[0]
        assert tokens == [tiny_tokenizer.decode([token]) for token in ids]
    # Token 10 has logprob -1, of 5 that are the full colour: 0.75 (1/5)^0.7 = 0.243.
    span = page.locator(".response .tokens span >> nth=10")
    assert "0.243" in span.get_attribute("style")
    span.hover()
    title = span.get_attribute("title")
    assert "logprob -1.000 (probability 0.368)" in title
    assert "trainer +0.0500 nats" in title
    advantage = -1 + 2 * 10 / (len(ids) - 1)
    assert f"advantage {advantage:.3f}" in title
    assert "entropy 2.500 nats" in title
    assert page.locator(".response .tokens span >> nth=0").get_attribute("class") == "masked"
    opened.choose(step="2")  # JSONL alone
    opened.count("5 of 5 responses")
    page.wait_for_selector("[data-view=logprob]:disabled")
    assert "this record is JSONL" in page.inner_text("#pane")
    page.click("[data-view=mathematics]")


def test_siblings_and_the_same_problem_across_steps(opened: Opened, real_run: Path) -> None:
    opened.tab("responses")
    page = opened.page
    opened.choose(run="0", set="training", step="3")
    rows = read_lines(real_run / "rollouts" / "step_000003.jsonl")
    page.click("#list .item >> nth=0")
    opened.wait("count => document.querySelectorAll('.column').length === count", 4)
    shown = opened.texts(".column .text")
    group = [row["response"] for row in rows[:4]]
    assert [text.replace("0 more characters", "").replace("(empty)", "") for text in shown] == group
    opened.choose(set="held out: heldout")
    opened.wait("document.querySelector('#pane h2').textContent.startsWith('Step 4')")
    page.click("[data-beside=steps]")
    opened.wait("document.querySelectorAll('.column').length === 3")
    uid = page.inner_text("#pane h2 .hint")
    expected = []
    for step in (0, 2, 4):
        row = next(
            r
            for r in read_lines(real_run / "evaluations" / f"step_{step:06d}_heldout.jsonl")
            if r["uid"] == uid
        )
        expected.append(f"step {step}: {int(row['accuracy'])} of 1 right")
    assert opened.texts(".column .link") == expected
    page.click(".column .link >> nth=0")
    opened.wait("document.querySelector('#pane h2').textContent.startsWith('Step 0')")
    page.click("[data-beside=siblings]:not(:disabled), [data-beside=steps]")


def test_no_error_and_no_network(opened: Opened) -> None:
    """After all of the above: the module's tests run in order."""
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("file:")] == []
    assert len(opened.requests) == 1


def test_responses_that_are_too_large_lie_beside_the_page(
    browser: Any, hostile_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "large.html"
    report([hostile_run], out, 1, 0)
    data = tmp_path / "large_data"
    assert {path.name for path in data.iterdir()} >= {"r0.p0.rows.js", "r0.p0.tokens.0.js", "r0.pieces.js"}
    assert "chunk:r0.p0" not in out.read_text()
    large = Opened(browser, out.as_uri() + "#responses")
    large.choose(step="1")
    large.count("7 of 7 responses")
    large.page.click("[data-view=logprob]")
    large.page.wait_for_selector(".response .tokens")
    assert large.errors == []
    assert {Path(url).parent.name for url in large.requests} == {tmp_path.name, "large_data"}
    large.page.close()
    report([hostile_run], out, 4, 64)  # now small enough: the folder of before goes
    assert not data.exists()
    text = out.read_text()
    assert "chunk:r0.p" in text
    assert json.dumps(HOSTILE[0]) not in text
