"""Boxes, arrows and text on a white card, as SVG that is the same on every machine: the hand tools of pictures.py.

A reader's browser chooses the font, so the widths of text are those of the widest that is named, DejaVu Sans. Text that
would leave its box, or that is smaller than SMALLEST, is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import drawsvg

WIDTH = 720  # of every picture
SMALLEST = 13  # font size; a picture that is shown 390 pixels wide then has letters of 7 pixels
INK, FAINT, CARD = "#1f2430", "#5b6472", "#ffffff"
_FONT = "Helvetica, Arial, DejaVu Sans, sans-serif"
# Widths of characters of DejaVu Sans in units of the font size, rounded up; of those that are not here, OTHERS.
_WIDTHS = {
    0.28: "ijl",
    0.34: " ,.:;/'",
    0.42: "frt()-",
    0.6: "cksvxyz",
    0.79: "ABCDGHKNOQRUVXY",
    0.82: "w",
    0.98: "mMW",
}
_OTHERS, _BOLD = 0.64, 1.13  # the latter: how much wider bold text is
_LEADING = 1.25  # distance of two lines
_PADDING = 5  # of a box, to either side


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on the card."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Half way from left to right."""
        return self.x + self.width / 2

    @property
    def right(self) -> float:
        """The right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Colour:
    """How a box is painted: its area and its edge."""

    fill: str
    edge: str


BLUE = Colour("#dce9fb", "#3b6fb6")
GREEN = Colour("#dff2e1", "#3c8a4d")
ORANGE = Colour("#fdebd3", "#c07a1c")
VIOLET = Colour("#ebe2f8", "#7a55b0")
GREY = Colour("#eef0f3", "#8b94a3")
PALE = Colour("#f8f9fb", "#c3c9d3")


def width_of(text: str, *, bold: bool = False) -> float:
    """The width of a line in units of the font size, as wide as it may be."""
    by_character = {character: width for width, characters in _WIDTHS.items() for character in characters}
    return sum(by_character.get(character, _OTHERS) for character in text) * (_BOLD if bold else 1)


class Canvas:
    """A picture that is being drawn. ``title`` is what screen readers say of it."""

    def __init__(self, height: float, title: str) -> None:
        self._height = height
        self._drawing = drawsvg.Drawing(WIDTH, height)
        self._drawing.append(drawsvg.Raw(f"<title>{title}</title>"))
        self._drawing.append(drawsvg.Rectangle(0, 0, WIDTH, height, rx=14, fill=CARD))
        self._head = drawsvg.Marker(-8, -5, 1, 5, scale=1, orient="auto", markerUnits="userSpaceOnUse")
        self._head.append(drawsvg.Lines(-8, -4.5, -8, 4.5, 1, 0, close=True, fill=INK))

    def svg(self) -> str:
        """The picture's file."""
        return str(self._drawing.as_svg()) + "\n"

    def box(self, place: Box, colour: Colour, *, dashed: bool = False) -> Box:
        """A rounded rectangle. Raises ValueError if it is not on the card."""
        if place.x < 0 or place.y < 0 or place.right > WIDTH or place.bottom > self._height:
            raise ValueError(f"a box leaves the card: {place}")
        more = {"stroke_dasharray": "6 4"} if dashed else {}
        self._drawing.append(
            drawsvg.Rectangle(
                *(place.x, place.y, place.width, place.height),
                rx=8,
                fill=colour.fill,
                stroke=colour.edge,
                stroke_width=1.5,
                **more,
            )
        )
        return place

    def labelled(self, place: Box, colour: Colour, title: str, lines: Sequence[str] = ()) -> Box:
        """A box with a bold title and lines below it, in its middle. Raises ValueError if they do not fit."""
        self.box(place, colour)
        sizes = [SMALLEST + 1] * bool(title) + [SMALLEST] * len(lines)
        height = sum(size * _LEADING for size in sizes)
        if height > place.height - 4:
            raise ValueError(f"{[title, *lines]} are {height:.0f} high, and the box is {place.height:.0f}")
        room, y = place.width - 2 * _PADDING, place.y + (place.height - height) / 2
        for number, text in enumerate([title] * bool(title) + [*lines]):
            bold = number == 0 and bool(title)
            self.text(text, place.middle, y + sizes[number], size=sizes[number], bold=bold, room=room)
            y += sizes[number] * _LEADING
        return place

    def text(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size: float = SMALLEST,
        bold: bool = False,
        anchor: str = "middle",
        colour: str = INK,
        room: float | None = None,
    ) -> None:
        """A line of text with its baseline at ``y``. room: its greatest width; to the card's edges if unset.

        Raises ValueError if it is wider, or too small to be read.
        """
        width = width_of(text, bold=bold) * size
        if room is None:
            room = 2 * min(x, WIDTH - x) if anchor == "middle" else WIDTH - x if anchor == "start" else x
        if width > room:
            raise ValueError(f"{text!r} is up to {width:.0f} wide, and there is room for {room:.0f}")
        if size < SMALLEST:
            raise ValueError(f"{text!r} has font size {size}, and the smallest is {SMALLEST}")
        more = {"font_weight": "bold"} if bold else {}
        self._drawing.append(
            drawsvg.Text(text, size, x, y, text_anchor=anchor, font_family=_FONT, fill=colour, **more)
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """A line through the points, with a head at the last."""
        flat = [coordinate for point in points for coordinate in point]
        more = {"stroke_dasharray": "6 4"} if dashed else {}
        self._drawing.append(
            drawsvg.Lines(*flat, fill="none", stroke=INK, stroke_width=1.6, marker_end=self._head, **more)
        )
