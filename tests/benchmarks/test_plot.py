"""Curves lie where their axes say, in their own colour."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from plot import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Panel, Series, draw


def test_an_axis_is_logarithmic() -> None:
    axis = Axis(1.0, 100.0, 500.0, 100.0)
    assert [axis.at(x) for x in (1.0, 10.0, 100.0)] == [500.0, 300.0, 100.0]


def test_points_are_drawn_where_they_belong(tmp_path: Path) -> None:
    first = Panel("one", (Series("ours", ((512.0, 1e-3), (8192.0, 0.5))), Series("theirs", ((512.0, 1e-2),))))
    second = Panel("two", (Series("none", ()), Series("theirs", ((8192.0, 1e-2),))))
    path = tmp_path / "deep" / "curves.png"
    draw(path, [first, Panel("empty", ()), second], footer="a machine")
    image = Image.open(path).convert("RGB")
    assert image.size == (2 * WIDTH, HEIGHT + 26)
    across = Axis(512 / 1.15, 8192 * 1.15, LEFT, WIDTH - RIGHT)
    up = Axis(1e-3, 1.0, HEIGHT - BOTTOM, TOP)

    def colour(panel: int, length: float, seconds: float) -> object:
        return image.getpixel((round(panel * WIDTH + across.at(length)), round(up.at(seconds))))

    assert colour(0, 512, 1e-3) == colour(0, 8192, 0.5) == COLOURS[0]
    assert colour(0, 512, 1e-2) == COLOURS[1]
    assert colour(1, 8192, 1e-2) == COLOURS[1]  # the same name, the same colour
    assert colour(1, 512, 1e-2) != COLOURS[1]


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to draw"):
        draw(tmp_path / "x.png", [Panel("empty", (Series("ours", ()),))])
    assert not (tmp_path / "x.png").exists()
