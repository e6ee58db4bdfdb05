"""Curves on two logarithmic axes as a PNG, drawn with Pillow and the font that it brings.

Knows series of points and their names. Refuses to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

PAPER: Colour = (255, 255, 255)
INK: Colour = (45, 45, 45)
GRID: Colour = (226, 222, 214)
COLOURS: tuple[Colour, ...] = ((31, 78, 121), (200, 80, 30), (70, 140, 70), (130, 80, 150), (120, 120, 120))
WIDTH, HEIGHT = 620, 520
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 74, 62


@dataclass(frozen=True)
class Series:
    """A name and its points, in the order in which the line joins them."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title and its series; the same name has the same colour in every panel."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Axis:
    """Where a value lies between two ends of pixels, on a logarithmic scale."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """The pixel of ``value``."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.first + share * (self.last - self.first)


def draw(path: Path, panels: Sequence[Panel], *, footer: str = "") -> None:
    """Write ``panels`` side by side to ``path``: lengths across, seconds up, both logarithmic and alike in all panels.

    ``footer`` stands below: the machine and versions. A panel without points is left out; raises ``ValueError`` when
    none is left.
    """
    shown = [panel for panel in panels if any(series.points for series in panel.series)]
    if not shown:
        raise ValueError("there is nothing to draw: no series has a point")
    points = [point for panel in shown for series in panel.series for point in series.points]
    names = list(dict.fromkeys(series.name for panel in shown for series in panel.series if series.points))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    image = Image.new("RGB", (WIDTH * len(shown), HEIGHT + (26 if footer else 0)), PAPER)
    pen = ImageDraw.Draw(image)
    for n, panel in enumerate(shown):
        _panel(pen, panel, colours, n * WIDTH, points)
    if footer:
        pen.text((LEFT, HEIGHT), footer, fill=INK, font=_font(13))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _panel(
    pen: ImageDraw.ImageDraw, panel: Panel, colours: dict[str, Colour], left: float, points: Sequence[Point]
) -> None:
    lengths, times = [x for x, _ in points], [y for _, y in points]
    across = Axis(min(lengths) / 1.15, max(lengths) * 1.15, left + LEFT, left + WIDTH - RIGHT)
    up = Axis(
        10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times)) + 1e-9), HEIGHT - BOTTOM, TOP
    )
    pen.text((left + LEFT, 14), panel.title, fill=INK, font=_font(17))
    for value in _powers(up.low, up.high, 10):
        y = up.at(value)
        pen.line((across.first, y, across.last, y), fill=GRID)
        pen.text((across.first - 8, y), _seconds(value), fill=INK, font=_font(13), anchor="rm")
    for value in sorted(set(lengths)):
        x = across.at(value)
        pen.line((x, up.first, x, up.last), fill=GRID)
        pen.text((x, up.first + 8), f"{value:,.0f}", fill=INK, font=_font(13), anchor="mt")
    pen.text(((across.first + across.last) / 2, HEIGHT - 14), "tokens", fill=INK, font=_font(13), anchor="mb")
    pen.rectangle((across.first, up.last, across.last, up.first), outline=INK)
    key = across.first  # names stand above the axes, where no curve runs
    for series in panel.series:
        if not series.points:
            continue
        colour = colours[series.name]
        line = [(across.at(x), up.at(y)) for x, y in series.points]
        pen.line(line, fill=colour, width=3, joint="curve")
        for x, y in line:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        pen.line((key, TOP - 18, key + 24, TOP - 18), fill=colour, width=3)
        pen.text((key + 32, TOP - 18), series.name, fill=INK, font=_font(14), anchor="lm")
        key += 56 + _font(14).getlength(series.name)


def _powers(low: float, high: float, base: int) -> Iterator[float]:
    value = low
    while value <= high * 1.0001:
        yield value
        value *= base


def _seconds(value: float) -> str:
    return f"{value:g} s" if value > 0.9999 else f"{value * 1e3:g} ms"  # Pillow's font has no sign for micro


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
