"""docs/notebook.ipynb: what is saved in it, and that it runs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "notebook.ipynb"
LARGEST_BYTES = 250_000
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|tmp|root|home|Users|usr|opt|var)/")
# The cells run with these numbers; 20 steps of the warm start are those in which its learning rate rises.
SHORT = {"WARM_START_STEPS = 375\n": "WARM_START_STEPS = 20\n", "STEPS = 30\n": "STEPS = 2\n"}
SHORT |= {"HELD_OUT = 300 ": "HELD_OUT = 8 "}
# As a user of a notebook does: interrupts a run, goes on, and makes a mistake.
INTERRUPTED = """
import os, signal

steps = []

def interrupt(step, metrics):
    steps.append(step)
    if step == 1:
        os.kill(os.getpid(), signal.SIGINT)

short = load_recipe(dapo, {"run.output_dir": RUN / "again", "evaluation": None, "batch.prompts_per_step": 8})
stopped = train(short, on_metrics=interrupt)
print("\\nsteps", steps, "summary", stopped)
print("\\nsteps", train(short, on_metrics=interrupt)["steps"], steps)
"""
MISTAKEN = 'load_recipe(dapo, {"run.sed": 1})'


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(cell: dict[str, Any], stream: str) -> Iterator[str]:
    """What a cell wrote to standard output or standard error."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream" and output["name"] == stream:
            yield "".join(output["text"])


def printed(cell: dict[str, Any]) -> str:
    return "".join(texts(cell, "stdout"))


def check_outputs(cells: list[dict[str, Any]]) -> None:
    """No errors, no warnings, no bars, no paths of a machine, and lines rather than pieces of HTML."""
    for cell in cells:
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds <= {"stream", "display_data"}, source(cell)
        assert not list(texts(cell, "stderr")), source(cell)
        assert not MACHINE_PATH.search(printed(cell)), source(cell)
        for output in cell["outputs"]:
            assert "text/html" not in output.get("data", {}), source(cell)


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_the_notebook_was_executed_in_order_and_is_small(notebook: dict[str, Any]) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    check_outputs(cells)
    for number, cell in enumerate(cells):
        compile(source(cell), f"cell {number}", "exec")
        assert source(cell).count("\n") < 40
    assert FILE.stat().st_size < LARGEST_BYTES
    images = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(images) == 1, "the curve, in its last state"
    written = json.dumps([cell["metadata"] for cell in notebook["cells"]])
    assert "iopub" not in written, "seconds are not recorded"
    for name in re.findall(r"\]\((\w+\.md)\)", "".join(map(source, notebook["cells"]))):
        assert (FILE.parent / name).is_file(), name


def shortened(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with fewer steps and problems, and with cells of ours after its own."""
    short = copy.deepcopy(notebook)
    first = code_cells(short)[0]
    text = source(first)
    for old, new in SHORT.items():
        assert re.findall(f"^{re.escape(old)}", text, re.MULTILINE) == [old], old
        text = re.sub(f"^{re.escape(old)}", new, text, flags=re.MULTILINE)
    first["source"] = text
    for number, (added, tags) in enumerate([(INTERRUPTED, []), (MISTAKEN, ["raises-exception"])]):
        cell = {"cell_type": "code", "id": f"added-{number}", "metadata": {"tags": tags}, "source": added}
        short["cells"].append({**cell, "execution_count": None, "outputs": []})
    return short


def test_the_notebook_runs(notebook: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nbclient", "ipykernel", "ipywidgets"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[notebook]'")
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    executed = nbformat.reads(json.dumps(shortened(notebook)), as_version=4)
    nbclient.NotebookClient(executed, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    *own, interrupted, mistaken = code_cells(executed)
    check_outputs([*own, interrupted])
    run = tmp_path / "runs" / "notebook" / "rl"
    table = next(source(cell) for cell in executed["cells"] if "| what |" in source(cell))
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([\w.]+)/?`", "".join(rows))) == {path.name for path in run.glob("[!.]*")}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [0, 1, 2, 2]
    lines = re.sub(r"\x1b\[[\d;]*m", "", "".join(map(printed, own)))
    assert re.search(r"^step 20/20 +loss \d", lines, re.MULTILINE)
    assert "step 1/2 " not in lines, "every tenth step has a line, and the last"
    assert re.search(r"^after - before: [+-]\d+\.\d% ", lines, re.MULTILINE)
    assert len(re.findall(r"^score [+-]\d\.\d\d  advantage [+-]\d\.\d\d  ", lines, re.MULTILINE)) == 8

    assert "stopping after this step, with a checkpoint; once more to stop at once\n" in printed(interrupted)
    assert "\nsteps [1] summary None\n" in printed(interrupted)
    assert printed(interrupted).endswith("\nsteps 2 [1, 2]\n")
    (error,) = mistaken["outputs"]
    assert (error["ename"], len(error["traceback"])) == ("ConfigError", 1)
    assert error["traceback"][0].startswith("ConfigError: override: run.sed = 1: unknown key. Did you mean")
