"""Pictures: what stands in the text, which pixels are coloured, and that large masks become cells of their shade."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qkv.errors import CoordinateError, SpecError
from qkv.terms.expr import Constant, Kind, Node
from qkv.terms.picture import MAX_COLUMNS, MAX_LINES, draw_shares, draw_text, picture, text_cell
from qkv.terms.png import MAX_PIXELS, Panel, heat_png, ticks, write_png
from qkv.terms.shade import cells, fit, heat_colour, heat_lines, ink_on, pad
from qkv.terms.trace import trace_named


def graph(function: Callable[..., object]) -> Node:
    return trace_named(function, Kind.BOOL)[1]


CAUSAL = graph(lambda i, j: j <= i)
WINDOW = graph(lambda i, j: (j <= i) & (i - j < 3))


def draw(node: Node, num_queries: int, num_keys: int, **more: object) -> list[str]:
    return picture(node, query="i", key="j", num_queries=num_queries, num_keys=num_keys, **more).split("\n")  # type: ignore[arg-type]


def test_a_small_mask_shows_each_pair() -> None:
    assert draw(WINDOW, 4, 5, title="causal() & window(3)") == [
        "causal() & window(3): 4 queries (i, down) by 5 keys (j, across), 45 % kept",
        "┌──────────┐",
        "│██· · · · │",
        "│████· · · │",
        "│██████· · │",
        "│· ██████· │",
        "└──────────┘",
        "██ kept   · not",
    ]


def test_offset_moves_the_queries() -> None:
    assert draw(CAUSAL, 1, 4, offset=2)[2] == "│██████· │"
    assert draw(CAUSAL, 1, 4, offset=2)[0] == "1 query (i, down) by 4 keys (j, across), 75 % kept"


def test_a_middle_mask_has_two_queries_in_a_character() -> None:
    lines = draw(CAUSAL, 35, 40)
    body = lines[2:-2]
    assert len(body) == 18
    assert body[0] == "│█▄" + " " * 38 + "│"
    assert body[-1] == "│" + "▀" * 35 + " " * 5 + "│"
    assert lines[-1] == "█ kept; a character is two queries high"


def test_a_large_mask_is_drawn_by_cells_and_says_their_size() -> None:
    lines = draw(CAUSAL, 4096, 4096)
    assert lines[0].endswith("50.01 % kept")
    assert lines[-1] == "a character = 64 queries x 32 keys: blank none kept, ░ ▒ ▓ some, █ all"
    body = [line[1:-1] for line in lines[2:-2]]
    assert len(body) == MAX_LINES
    assert {len(line) for line in body} == {MAX_COLUMNS}
    for n, line in enumerate(body):
        assert line == ("█" * (2 * n) + "▓░").ljust(MAX_COLUMNS)


@pytest.mark.parametrize(
    ("num_queries", "num_keys"), [(1, 1), (128, 128), (129, 128), (1, 100_000), (100_000, 1), (777, 9000), (9000, 777)]
)
def test_no_picture_is_larger_than_a_screen(num_queries: int, num_keys: int) -> None:
    lines = draw(CAUSAL, num_queries, num_keys)
    assert len(lines) <= MAX_LINES + 4
    assert max(len(line) for line in lines[1:-1]) <= MAX_COLUMNS + 2
    cell = text_cell(num_queries, num_keys)
    assert 1 <= cell[0] <= num_queries
    assert 1 <= cell[1] <= num_keys


def test_text_of_a_matrix_is_that_of_its_graph() -> None:
    for n, m in ((5, 7), (40, 50), (300, 200), (129, 3)):
        mask = np.tri(n, m, dtype=bool)
        assert draw_text(mask).split("\n") == draw(CAUSAL, n, m)[1:]
    assert draw_text(np.ones((2, 2), dtype=bool)) != draw_text(np.eye(2, dtype=bool))


def test_anything_kept_is_visible_and_only_a_full_cell_looks_full() -> None:
    assert draw_shares(np.array([[0.0, 1e-6, 0.33, 0.5, 0.7, 1 - 1e-6, 1.0]]))[1] == "│ ░░▒▓▓█│"


def test_empty_and_unplaced_masks_are_refused() -> None:
    with pytest.raises(SpecError, match="a picture of 0 queries and 4 keys"):
        draw(CAUSAL, 0, 4)
    with pytest.raises(CoordinateError, match='depends on "b"'):
        draw(graph(lambda b, i, j: (j <= i) | (b == 0)), 4, 4)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(image - np.array(colour)).sum(axis=2) == 0)[70:, 76:]  # the matrix, below its labels


def test_png_shows_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "window.png"
    draw(WINDOW, 12, 12, path=path, title="causal() & window(3)")
    image = pixels(path)
    kept = coloured(image, (31, 78, 121))
    assert kept.any()
    for i in range(12):
        for j in range(12):
            middle = kept[4 + 40 * i + 20, 2 + 40 * j + 20]
            assert middle == (0 <= i - j < 3), (i, j)


def test_png_of_a_large_mask_is_small_and_its_shades_are_shares(tmp_path: Path) -> None:
    path = tmp_path / "causal.png"
    draw(CAUSAL, 5000, 5000, path=path)
    image = pixels(path)
    assert max(image.shape[:2]) < MAX_PIXELS + 130
    matrix = image[74 : 74 + 1000, 78 : 78 + 1000]
    assert (matrix[500, :499] == np.array((31, 78, 121))).all()
    assert (matrix[500, 502:990] == np.array((244, 241, 234))).all()
    half = matrix[500, 500]
    assert (np.array((31, 78, 121)) < half).all()
    assert (half < np.array((244, 241, 234))).all()


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (1024, 1024), (1025, 3)])
def test_png_of_every_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "mask.png"
    draw(CAUSAL, *size, path=path, offset=5)
    assert coloured(pixels(path), (31, 78, 121)).any()


def test_png_of_nothing_kept(tmp_path: Path) -> None:
    path = tmp_path / "none.png"
    draw(Constant(False), 8, 8, path=path)
    assert not coloured(pixels(path), (31, 78, 121)).any()
    with pytest.raises(SpecError, match="a PNG of 2000 x 2 cells"):
        write_png(np.zeros((2000, 2)), path)


def test_ticks_are_few_and_round() -> None:
    for number in (1, 2, 9, 10, 33, 100, 999, 1024):
        places = ticks(number)
        assert places[0] == 0
        assert len(places) <= 9
        assert all(place < number for place in places)
        assert len({b - a for a, b in pairwise(places)}) <= 1
    assert ticks(100) == [0, 20, 40, 60, 80]
    assert ticks(45) == [0, 5, 10, 15, 20, 25, 30, 35, 40]


WEIGHTS = np.array([[1.0, 0.0], [-0.25, 0.75]])


def test_heat_lines_without_colour() -> None:
    assert heat_lines(WEIGHTS, ["the", "cat"], ["the", "cat"], colour=False) == [
        "        the     cat",
        "the  █ 1.00    0.00",
        "cat  ▂-0.25  ▆ 0.75",
    ]


def test_heat_lines_with_colour_can_be_read_anywhere() -> None:
    lines = heat_lines(WEIGHTS, ["the", "cat"], ["the", "cat"], colour=True)
    for line in lines[1:]:
        assert line.count("\x1b[38;2;") == line.count("\x1b[0m") == 2  # ink and ground are both set, and reset
    assert "48;2;20;66;114m" in lines[1]
    assert " -0.25 " in lines[2]


def test_heat_lines_of_odd_labels_and_values() -> None:
    rows = ["extraordinarily", "猫猫猫猫猫猫", "\n", "e\u0301"]
    lines = heat_lines(np.array([[np.nan], [0.0], [0.0], [0.0]]), rows, ["weights"], colour=False)
    assert {cells(line) for line in lines} == {18}
    assert lines[1].startswith("extraordi…")
    assert lines[2].startswith("猫猫猫猫…")
    assert lines[3].startswith("· ")
    assert "nan" in lines[1]
    with pytest.raises(SpecError, match=r"a heat map of shape \(1, 2\), 1 row and 1 column labels"):
        heat_lines(np.zeros((1, 2)), ["a"], ["b"], colour=False)


def test_ink_contrasts_with_every_ground() -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for value in np.linspace(-1, 1, 81):
        ground = heat_colour(float(value), 1.0)
        light, dark = sorted((luminance(ground), luminance(ink_on(ground))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, f"ink and ground too close at {value}"


def test_labels_fit() -> None:
    assert fit("abc", 3) == "abc"
    assert fit("abcd", 3) == "ab…"
    assert pad("猫", 4) == "猫  "
    assert pad("猫", 4, right=True) == "  猫"


def test_heat_png(tmp_path: Path) -> None:
    path = tmp_path / "heat.png"
    panel = Panel("scaled dot product", WEIGHTS, ("the", "cat"), ("the", "cat"))
    heat_png([panel] * 4, path, per_row=3)
    image = pixels(path)
    full = (np.abs(image - np.array((20, 66, 114))).sum(axis=2) == 0).sum()
    assert full >= 4 * 54 * 54 * 0.7, "one full square in each of four panels, less its number"
    with pytest.raises(SpecError, match="a picture of 0 heat maps"):
        heat_png([], path)
    with pytest.raises(SpecError, match=r"heat map 'x': a matrix of shape \(2, 2\), 1 row labels"):
        Panel("x", WEIGHTS, ("the",), ("the", "cat"))
