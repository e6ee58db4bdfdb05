"""Bytes of caches against context for several models, drawn as PNG (Pillow, the font that it brings) or SVG (text).

Knows axes on logarithmic scales, lines and labels. Refuses to know what is drawn: it is given points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError
from .cache import cache_size
from .description import Model
from .format import Format
from .policy import Policy, to_policy
from .recommend import Recommendation
from .units import show_bytes, show_count, to_count

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

WIDTH, HEIGHT = 1140, 640
_LEFT, _TOP, _RIGHT, _BOTTOM = 96, 64, 320, 64
_COLOURS = (
    "#1f4e79", "#c0504d", "#2e7d32", "#7b4fa3", "#b8860b", "#00838f", "#d81b60", "#5d4037", "#546e7a", "#9e9d24"
)  # fmt: skip
_INK, _FAINT, _GRID = "#2d2d2d", "#787878", "#d6d0c4"
MOST_LINES = len(_COLOURS)
"""Lines that can be told apart by colour."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its label and the points (context, bytes), contexts rising."""

    label: str
    points: tuple[tuple[int, int], ...]


def curves(
    models: Sequence[Model],
    context: int | str = "128k",
    *,
    policies: Sequence[str | Policy] = ("math",),
    dtype: str | Format = "bf16",
    batch: int = 1,
    source: int | str = 0,
) -> tuple[Curve, ...]:
    """A line for each model and policy: its bytes at contexts from 256 to ``context``, eight for each doubling.

    Raises ``SpecError`` for more than ten lines, and for a context below 512.
    """
    last = to_count(context, "context")
    if last < 512:
        raise SpecError(f"context={last}: a curve begins at 256 tokens.\n  Give at least 512.")
    if not 0 < len(models) * len(policies) <= MOST_LINES:
        raise SpecError(f"{len(models) * len(policies)} lines: from 1 to {MOST_LINES} can be told apart.")
    steps = 8 * (last.bit_length() - 9)
    contexts = sorted({round(256 * (last / 256) ** (n / steps)) for n in range(steps + 1)})
    made: list[Curve] = []
    for one in models:
        for policy in map(to_policy, policies):
            sizes = (cache_size(one, n, batch=batch, dtype=dtype, policy=policy, source=source).bytes for n in contexts)
            label = f"{one.name}, {policy.name}" if len(policies) > 1 else one.name
            made.append(Curve(label, tuple(zip(contexts, sizes, strict=True))))
    return tuple(made)


def stack_curves(found: Recommendation) -> tuple[Curve, ...]:
    """A line for each candidate of a recommendation, the chosen one marked: its cache up to the scenario's context."""
    scenario = found.scenario
    made: list[Curve] = []
    for item in found.figures:
        stack = item.stack
        lines = curves(
            [stack.model(scenario)], max(512, scenario.context), dtype=stack.cache_dtype, batch=scenario.batch,
            source=scenario.source,
        )  # fmt: skip
        made.append(Curve(f"> {stack.name}" if item is found.chosen else stack.name, lines[0].points))
    return tuple(made)


def write_curves(found: Sequence[Curve], path: str | PathLike[str], *, title: str) -> None:
    """Write the lines at ``path``, as an SVG where its name ends so, else as a PNG. Both axes are logarithmic.

    Raises ``SpecError`` without points, and for a name that ends in neither.
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".svg"):
        raise SpecError(f"the picture {target.name!r} ends in {target.suffix!r}.\n  Name it .png or .svg.")
    frame = _Frame.around(found)
    if target.suffix.lower() == ".svg":
        target.write_text(_svg(found, frame, title), encoding="utf-8")
    else:
        _png(found, frame, title, target)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The ranges of both axes, as powers of two."""

    first: float
    last: float
    low: int
    high: int

    @staticmethod
    def around(found: Sequence[Curve]) -> _Frame:
        points = [point for curve in found for point in curve.points if point[1] > 0]
        if not points:
            raise SpecError("nothing to draw: no cache holds a byte.\n  Give models that keep keys, values or a state.")
        contexts, sizes = zip(*points, strict=True)
        low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
        return _Frame(math.log2(min(contexts)), max(math.log2(max(contexts)), 1.0), low, max(high, low + 1))

    def place(self, context: int, size: int) -> tuple[float, float]:
        """Pixels of a point; a size of 0 lies on the lower edge."""
        across = (math.log2(context) - self.first) / max(self.last - self.first, 1e-9)
        up = (max(math.log2(size), self.low) - self.low) / (self.high - self.low) if size else 0.0
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    def contexts(self) -> list[int]:
        """Powers of two along the axis of contexts."""
        return [1 << n for n in range(math.ceil(self.first), math.floor(self.last + 1e-9) + 1)]

    def sizes(self) -> list[int]:
        """Powers of two along the axis of bytes, at most twelve of them."""
        step = -(-(self.high - self.low) // 12)
        return [1 << n for n in range(self.low, self.high + 1, step)]


def _labels(found: Sequence[Curve], frame: _Frame) -> list[tuple[float, Curve, str]]:
    """Where each line's name stands beside its end, moved apart so that none covers another."""
    ends = sorted((frame.place(*curve.points[-1])[1], number, curve) for number, curve in enumerate(found))
    made: list[tuple[float, Curve, str]] = []
    for y, number, curve in ends:
        place = max(y, made[-1][0] + 20) if made else y
        made.append((place, curve, _COLOURS[number % MOST_LINES]))
    over = made[-1][0] - (HEIGHT - _BOTTOM + 6) if made else 0
    return [(y - max(0.0, over), curve, colour) for y, curve, colour in made]


def _svg(found: Sequence[Curve], frame: _Frame, title: str) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="14" role="img" aria-label="{escape(title, quote=True)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="16" y="32" font-size="17" fill="{_INK}">{escape(title)}</text>',
    ]
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value in frame.sizes():
        y = frame.place(1 << math.ceil(frame.first), value)[1]
        lines.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{_GRID}"/>')
        lines.append(
            f'<text x="{_LEFT - 8}" y="{y + 5:.1f}" text-anchor="end" fill="{_FAINT}">{show_bytes(value)}</text>'
        )
    for value in frame.contexts():
        x = frame.place(value, 1)[0]
        lines.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle" fill="{_FAINT}">{show_count(value)}</text>'
        )
    lines.append(
        f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle" fill="{_INK}">context (tokens)</text>'
    )
    for number, curve in enumerate(found):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.place(*point) for point in curve.points))
        colour = _COLOURS[number % MOST_LINES]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
    for y, curve, colour in _labels(found, frame):
        lines.append(f'<text x="{right + 10}" y="{y + 5:.1f}" fill="{colour}">{escape(curve.label)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _png(found: Sequence[Curve], frame: _Frame, title: str, path: Path) -> None:
    from PIL import Image, ImageDraw

    scale = 2  # drawn twice as large and made smaller, so that slanted lines are smooth
    small, large = _font(14 * scale), _font(17 * scale)
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), "#ffffff")
    draw = ImageDraw.Draw(image)
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT

    def text(x: float, y: float, said: str, fill: str, anchor: str, font: FreeTypeFont | ImageFont = small) -> None:
        draw.text((x * scale, y * scale), said, fill=fill, font=font, anchor=anchor)

    text(16, 26, title, _INK, "lm", large)
    for value in frame.sizes():
        y = frame.place(1 << math.ceil(frame.first), value)[1]
        draw.line((_LEFT * scale, y * scale, right * scale, y * scale), fill=_GRID, width=scale)
        text(_LEFT - 8, y, show_bytes(value), _FAINT, "rm")
    for value in frame.contexts():
        x = frame.place(value, 1)[0]
        draw.line((x * scale, _TOP * scale, x * scale, bottom * scale), fill=_GRID, width=scale)
        text(x, bottom + 16, show_count(value), _FAINT, "mm")
    text((_LEFT + right) / 2, HEIGHT - 18, "context (tokens)", _INK, "mm")
    for number, curve in enumerate(found):
        line = [(x * scale, y * scale) for x, y in (frame.place(*point) for point in curve.points)]
        draw.line(line, fill=_COLOURS[number % MOST_LINES], width=5, joint="curve")
    for y, curve, colour in _labels(found, frame):
        text(right + 10, y, curve.label, colour, "lm")
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, format="PNG")


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
