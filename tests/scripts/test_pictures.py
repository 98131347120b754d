"""The pictures in docs/images are those that scripts/site/pictures.py draws, and their text is legible and fits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("drawsvg", reason="drawsvg is not installed: pip install '.[docs]'")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "site"))

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["data_flow.svg", "layouts.svg", "phases.svg"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pictures

    folder = tmp_path_factory.mktemp("pictures")
    pictures.main(["--out", str(folder)])
    return folder


def test_the_committed_pictures_are_those_that_are_drawn(drawn: Path, repository: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == NAMES
    for name in NAMES:
        committed = (repository / "docs" / "images" / name).read_bytes()
        assert (drawn / name).read_bytes() == committed, f"{name}: run scripts/site/pictures.py"


@pytest.mark.parametrize("name", NAMES)
def test_text_is_large_enough_and_the_ground_is_white(drawn: Path, name: str) -> None:
    root = ElementTree.parse(drawn / name).getroot()
    sizes = [float(text.attrib["font-size"]) for text in root.iter(f"{SVG}text")]
    assert len(sizes) > 20
    assert min(sizes) >= 12
    assert root.attrib["width"] == "720"
    ground = next(root.iter(f"{SVG}rect")).attrib
    assert (ground["fill"], ground["width"], ground["height"]) == ("#ffffff", "720", root.attrib["height"])


def test_what_does_not_fit_is_an_error() -> None:
    from canvas import BLUE, Box, Canvas

    canvas = Canvas(100, "x")
    for place, title, lines, said in (
        (Box(10, 10, 100, 50), "", ["a line that is too wide"], "wide, and there is room for 90"),
        (Box(10, 10, 100, 30), "name", ["one", "two"], "high, and the box is 30"),
        (Box(700, 10, 100, 50), "name", [], "a box leaves the card"),
    ):
        with pytest.raises(ValueError, match=said):
            canvas.labelled(place, BLUE, title, lines)
    with pytest.raises(ValueError, match="the smallest is 13"):
        canvas.text("small", 50, 50, size=9)


def test_widths_are_those_of_the_widest_font_or_above(drawn: Path) -> None:
    """Compared with DejaVu Sans itself, where matplotlib brings it."""
    font_manager = pytest.importorskip("matplotlib.font_manager")
    text_path = pytest.importorskip("matplotlib.textpath")
    from canvas import width_of

    fonts = {
        weight: font_manager.FontProperties(family="DejaVu Sans", size=100, weight=weight)
        for weight in ("normal", "bold")
    }
    measure: Any = text_path.text_to_path.get_text_width_height_descent
    for name in NAMES:
        for text in ElementTree.parse(drawn / name).getroot().iter(f"{SVG}text"):
            weight = text.attrib.get("font-weight", "normal")
            width, _, _ = measure(text.text, fonts[weight], ismath=False)
            assert width / 100 <= width_of(text.text or "", bold=weight == "bold") * 1.01, text.text
