"""Sizes: what follows from shapes, and what is said when they disagree."""

from __future__ import annotations

import pytest

from qkv.coords.pattern import parse
from qkv.coords.sizes import Solved, solve
from qkv.errors import CoordinateError, PatternError, ShapeError, SizeMismatch

PLAIN = "b h i d, b h j d, b h j e -> b h i e"
GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
RESTS = "..b i d, ..b j d, ..b j e -> ..b i e"


def solved(text, q, k, v, known=None) -> Solved:
    return solve(parse(text), {"q": q, "k": k, "v": v}, known)


def error(text, q, k, v, known=None) -> SizeMismatch:
    with pytest.raises(SizeMismatch) as caught:
        solved(text, q, k, v, known)
    return caught.value


def test_plain_sizes_and_the_output_shape():
    found = solved(PLAIN, (2, 8, 5, 64), (2, 8, 7, 64), (2, 8, 7, 32))
    assert found.sizes == {"b": 2, "h": 8, "i": 5, "d": 64, "j": 7, "e": 32}
    assert found.pattern is parse(PLAIN)
    assert found.shape("output") == (2, 8, 5, 32)
    assert found.shape("k") == (2, 8, 7, 64)


def test_a_group_is_solved_from_the_merged_axis():
    found = solved(GROUPED, (2, 8, 5, 64), (2, 4, 7, 64), (2, 4, 7, 32))
    assert (found.sizes["h"], found.sizes["g"]) == (4, 2)
    assert found.shape("output") == (2, 8, 5, 32)
    assert found.shape("q") == (2, 8, 5, 64)


def test_merged_axes_are_solved_from_one_another():
    found = solved("(x y z) d, (x j) d, (x j) e -> x y z e", (24, 4), (10, 4), (10, 3), {"j": 5, "y": 3})
    assert found.sizes == {"x": 2, "y": 3, "z": 4, "d": 4, "j": 5, "e": 3}


def test_known_sizes_solve_what_shapes_leave_open():
    text = "b (h g) i d, b j d, b j e -> b (h g) i e"
    assert solved(text, (2, 8, 5, 64), (2, 7, 64), (2, 7, 32), {"g": 2}).sizes["h"] == 4


def test_one_and_zero_are_sizes():
    assert solved(PLAIN, (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)).shape("output") == (1, 1, 1, 1)
    assert solved(PLAIN, (0, 8, 5, 64), (0, 8, 0, 64), (0, 8, 0, 32)).shape("output") == (0, 8, 5, 32)
    assert solved(GROUPED, (2, 0, 5, 64), (2, 4, 7, 64), (2, 4, 7, 32)).sizes["g"] == 0


def test_rests_are_counted_and_written_out():
    found = solved(RESTS, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))
    assert found.sizes == {"b.0": 2, "b.1": 3, "i": 5, "d": 4, "j": 7, "e": 6}
    assert str(found.pattern) == "b.0 b.1 i d, b.0 b.1 j d, b.0 b.1 j e -> b.0 b.1 i e"
    assert found.shape("output") == (2, 3, 5, 6)
    assert solved(RESTS, (5, 4), (7, 4), (7, 6)).shape("output") == (5, 6)


def test_tied_features_share_one_size():
    text = "b i d, b j d, b j d -> b i d"
    assert solved(text, (2, 5, 4), (2, 7, 4), (2, 7, 4)).shape("output") == (2, 5, 4)
    assert error(text, (2, 5, 4), (2, 7, 4), (2, 7, 6)).seen == {"q": 4, "k": 4, "v": 6}


def test_an_axis_of_size_one():
    text = "b 1 i d, b 1 j d, b 1 j e -> b 1 i e"
    assert solved(text, (2, 1, 5, 4), (2, 1, 7, 4), (2, 1, 7, 6)).shape("output") == (2, 1, 5, 6)


def test_asking_twice_gives_separate_sizes():
    first = solved(PLAIN, (2, 8, 5, 64), (2, 8, 7, 64), (2, 8, 7, 32))
    first.sizes["b"] = 99
    assert solved(PLAIN, (2, 8, 5, 64), (2, 8, 7, 64), (2, 8, 7, 32)).sizes["b"] == 2
    hash(first)


def test_the_dropped_value(message):
    shapes = ((2, 8, 5, 64), (2, 8, 128, 64), (2, 8, 127, 64))
    assert message(SizeMismatch, lambda: solved(PLAIN, *shapes)) == [
        'coordinate "j" has two sizes.',
        "    k: j=128   (argument 2: b=2 h=8 j=128 d=64)",
        "    v: j=127   (argument 3: b=2 h=8 j=127 e=64)",
        '  Every tensor that carries "j" must agree. Was the last value dropped?',
    ]
    caught = error(PLAIN, *shapes)
    assert caught.coordinate == "j"
    assert caught.seen == {"k": 128, "v": 127}


def test_a_size_of_one_does_not_spread(message):
    lines = message(SizeMismatch, lambda: solved(PLAIN, (2, 8, 5, 64), (1, 8, 7, 64), (1, 8, 7, 64)))
    assert lines == [
        'coordinate "b" has two sizes.',
        "    q: b=2   (argument 1: b=2 h=8 i=5 d=64)",
        "    k: b=1   (argument 2: b=1 h=8 j=7 d=64)",
        "    v: b=1   (argument 3: b=1 h=8 j=7 e=64)",
        '  Every tensor that carries "b" must agree. A size of 1 does not spread: to share k, squeeze it and leave "b" '
        "out there.",
    ]


def test_three_sizes(message):
    lines = message(SizeMismatch, lambda: solved(PLAIN, (2, 8, 5, 64), (3, 8, 7, 64), (5, 8, 7, 64)))
    assert lines[0] == 'coordinate "b" has three sizes.'
    assert (
        lines[-1]
        == '  Every tensor that carries "b" must agree. Compare the layouts of these tensors with the pattern.'
    )


def test_swapped_axes(message):
    lines = message(SizeMismatch, lambda: solved(PLAIN, (2, 5, 8, 64), (2, 8, 7, 64), (2, 8, 7, 64)))
    assert lines[1] == "    q: h=5   (argument 1: b=2 h=5 i=8 d=64)"
    assert lines[-1] == '  Every tensor that carries "h" must agree. Are "h" and "i" swapped in q?'


def test_grouped_heads_without_a_group(message):
    lines = message(SizeMismatch, lambda: solved(PLAIN, (2, 8, 5, 64), (2, 4, 7, 64), (2, 4, 7, 64)))
    assert lines[-1] == (
        '  Every tensor that carries "h" must agree. '
        "If 2 of q's share one of k's, write (h g) in q and in the output."
    )


def test_axes_are_not_called_swapped_where_the_swap_would_not_help(message):
    """b has the size that h should have in q, but with 4 for b nothing would agree either."""
    lines = message(SizeMismatch, lambda: solved(PLAIN, (2, 4, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8)))
    assert lines[-1].endswith("If 2 of q's share one of k's, write (h g) in q and in the output.")


def test_known_that_disagrees(message):
    lines = message(SizeMismatch, lambda: solved(PLAIN, (2, 8, 5, 64), (2, 8, 7, 64), (2, 8, 7, 64), {"j": 9}))
    assert lines == [
        'coordinate "j" has two sizes.',
        "    k: j=7   (argument 2: b=2 h=8 j=7 d=64)",
        "    v: j=7   (argument 3: b=2 h=8 j=7 e=64)",
        "    sizes: j=9",
        '  Every tensor that carries "j" must agree. Take "j" out of sizes=, which is for sizes that shapes leave '
        "open.",
    ]


def test_a_merged_axis_that_cannot_be_divided(message):
    shapes = ((2, 8, 5, 64), (2, 3, 7, 64), (2, 3, 7, 64))
    assert message(SizeMismatch, lambda: solved(GROUPED, *shapes)) == [
        'coordinate "g" has no size: (h g)=8 is not a multiple of h=3.',
        "    q: (h g)=8   (argument 1: b=2 (h g)=8 i=5 d=64)",
        "    k: h=3   (argument 2: b=2 h=3 j=7 d=64)",
        "    v: h=3   (argument 3: b=2 h=3 j=7 e=64)",
        "  A merged axis is the product of its parts, major to minor. Does (h g) list what the axis holds?",
    ]
    assert error(GROUPED, *shapes).coordinate == "g"
    assert error(GROUPED, *shapes).seen == {"q": 8}


def test_no_heads_cannot_divide_some(message):
    lines = message(SizeMismatch, lambda: solved(GROUPED, (2, 8, 5, 64), (2, 0, 7, 64), (2, 0, 7, 64)))
    assert lines[0] == 'coordinate "g" has no size: (h g)=8 is not a multiple of h=0.'


def test_a_merged_axis_that_is_not_the_product(message):
    lines = message(SizeMismatch, lambda: solved(GROUPED, (2, 8, 5, 64), (2, 4, 7, 64), (2, 4, 7, 64), {"g": 3}))
    assert lines == [
        "the merged axis (h g) has size 8, and its parts make h=4 * g=3 = 12.",
        "    q: (h g)=8   (argument 1: b=2 (h g)=8 i=5 d=64)",
        "    k: h=4   (argument 2: b=2 h=4 j=7 d=64)",
        "    v: h=4   (argument 3: b=2 h=4 j=7 e=64)",
        "    sizes: g=3",
        "  A merged axis is the product of its parts; every tensor that carries one of them must agree.",
    ]


def test_parts_that_were_solved_elsewhere_say_so(message):
    text = "(x y) d, (x j) d, (x j) e -> (x y) e"
    lines = message(SizeMismatch, lambda: solved(text, (9, 4), (10, 4), (10, 3), {"j": 5}))
    assert lines[0] == 'coordinate "y" has no size: (x y)=9 is not a multiple of x=2.'
    assert lines[2] == "    x=2, solved from another merged axis"


def test_a_merged_axis_that_nothing_solves(message):
    text = "b (h g) i d, b j d, b j e -> b (h g) i e"
    lines = message(SizeMismatch, lambda: solved(text, (2, 8, 5, 64), (2, 7, 64), (2, 7, 64)))
    assert lines == [
        '"h" and "g" cannot be solved from (h g)=8.',
        "    q: (h g)=8   (argument 1: b=2 (h g)=8 i=5 d=64)",
        '  No other tensor says either. Give the size beside the pattern: sizes={"g": ...}',
    ]


def test_no_heads_leave_the_group_open(message):
    lines = message(SizeMismatch, lambda: solved(GROUPED, (2, 0, 5, 64), (2, 0, 7, 64), (2, 0, 7, 64)))
    assert lines[0] == '"g" cannot be solved from (h g)=0 (a size of 0 leaves it open).'
    assert lines[-1] == '  No other tensor says it. Give the size beside the pattern: sizes={"g": ...}'
    assert solved(GROUPED, (2, 0, 5, 64), (2, 0, 7, 64), (2, 0, 7, 64), {"g": 2}).sizes["g"] == 2


def test_an_axis_written_one_that_is_larger(message):
    text = "b 1 i d, b 1 j d, b 1 j e -> b 1 i e"
    lines = message(SizeMismatch, lambda: solved(text, (2, 1, 5, 4), (2, 3, 7, 4), (2, 1, 7, 6)))
    assert lines == [
        'an axis written "1" has size 3.',
        "    k: 1=3   (argument 2: b=2 1=3 j=7 d=4)",
        "  Name the axis, or give a tensor whose size is 1 there.",
    ]


def test_the_number_of_axes(message):
    lines = message(ShapeError, lambda: solved(PLAIN, (2, 5, 64), (2, 8, 7, 64), (2, 8, 7, 64)))
    assert lines == [
        "q has 3 axes, and its pattern names 4.",
        "    pattern: b h i d",
        "    shape:   (2, 5, 64)   (argument 1)",
        "  Give q with these axes, or write the pattern of the axes it has.",
    ]
    lines = message(ShapeError, lambda: solved(RESTS, (5, 4), (4,), (7, 6)))
    assert lines[0] == "k has 1 axis, and its pattern names at least 2."
    lines = message(ShapeError, lambda: solved(PLAIN, (2, 8, 5, 64), (2, 8, 7, 64), (1, 2, 8, 7, 64)))
    assert lines[0] == "v has 5 axes, and its pattern names 4."


def test_a_rest_with_two_lengths(message):
    lines = message(ShapeError, lambda: solved(RESTS, (2, 8, 5, 64), (8, 7, 64), (2, 8, 7, 64)))
    assert lines == [
        "..b stands for 2 coordinates in q and for 1 in k.",
        "    q: ..b i d for the shape (2, 8, 5, 64)   (argument 1)",
        "    k: ..b j d for the shape (8, 7, 64)   (argument 2)",
        "  A rest stands for the same coordinates wherever it is written.",
    ]


def test_a_known_size_of_nothing(message):
    lines = message(CoordinateError, lambda: solved(GROUPED, (2, 8, 5, 64), (2, 4, 7, 64), (2, 4, 7, 64), {"group": 3}))
    assert lines == [
        'sizes= names "group", which the pattern does not carry.',
        f"    {GROUPED}",
        '  Did you mean "g"?',
    ]
    lines = message(CoordinateError, lambda: solved(PLAIN, (2, 8, 5, 64), (2, 8, 7, 64), (2, 8, 7, 64), {"z": 3}))
    assert lines[-1] == '  Its coordinates are "b", "h", "i", "d", "j" and "e".'


@pytest.mark.parametrize("size", [True, 2.0, -1, "2", None, [2]])
def test_a_known_size_that_is_none(size, message):
    # Solved once with the integer, so that a remembered answer for 1 or 2 cannot hide True or 2.0.
    for good in (1, 2):
        solved(GROUPED, (2, 4 * good, 5, 64), (2, 4, 7, 64), (2, 4, 7, 64), {"g": good})
    number = 4 if size is True else 8
    lines = message(
        SizeMismatch, lambda: solved(GROUPED, (2, number, 5, 64), (2, 4, 7, 64), (2, 4, 7, 64), {"g": size})
    )
    assert lines == [
        f'sizes= gives "g" the size {size!r}, and a size is an integer from 0.',
        '  Write for example sizes={"g": 8}',
    ]


def test_a_pattern_without_roles_is_not_solved():
    with pytest.raises(PatternError):
        solved("b i d, b i d, b i d -> b i d", (2, 5, 4), (2, 5, 4), (2, 5, 4))
