"""Named tensors given to a call: matched by name, never by place or by length."""

from __future__ import annotations

import pytest
import torch

from qkv.coords.given import arrange, name_output, pattern_of
from qkv.coords.named import Named
from qkv.coords.pattern import parse
from qkv.coords.roles import roles
from qkv.coords.sizes import solve
from qkv.errors import CoordinateError, PatternError

CROSS = "b h seq_q d, b h seq_k d, b h seq_k e -> b h seq_q e"
GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"


def named(text: str, **sizes: int) -> Named:
    return Named(torch.randn([sizes.get(name, 4) for name in text.split()]), text)


def test_the_pattern_of_three_named_tensors():
    q, k, v = named("b h i d"), named("b h j d"), named("b h j e")
    assert pattern_of(q, k, v) == parse("b h i d, b h j d, b h j e -> b h i e")
    assert pattern_of(named("b i h d"), named("d j b h"), named("j e h b")).output.coordinates == ("b", "i", "h", "e")
    assert roles(pattern_of(named("b i d"), named("b j d"), named("b j d"))).tied


def test_the_same_sequence_three_times_is_no_pattern():
    x = named("b i d")
    with pytest.raises(PatternError, match="nothing tells queries from keys"):
        roles(pattern_of(x, x, x))


def test_order_does_not_matter():
    q, k, v = named("b h seq_q d"), named("d b seq_k h"), named("seq_k e h b")
    pattern, tensors = arrange(parse(CROSS), {"q": q, "k": k, "v": v})
    assert pattern == parse(CROSS)
    assert torch.equal(tensors["k"], k.tensor.permute(1, 3, 2, 0))
    assert torch.equal(tensors["v"], v.tensor.permute(3, 2, 0, 1))


def test_merged_axes_are_made_and_parted_again():
    q, k, v = named("b i g h d", h=2, g=3), named("b h j d", h=2), named("b h j e", h=2)
    pattern, tensors = arrange(parse(GROUPED), {"q": q, "k": k, "v": v})
    assert torch.equal(tensors["q"], q.order("b h g i d").tensor.reshape(4, 6, 4, 4))
    solved = solve(pattern, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    output = name_output(solved, torch.zeros(solved.shape("output")))
    assert output.sizes == {"b": 4, "h": 2, "g": 3, "i": 4, "e": 4}


def test_an_axis_of_size_one_is_added_and_dropped():
    text = "b 1 i d, b 1 j d, b 1 j e -> b 1 i e"
    pattern, tensors = arrange(parse(text), {"q": named("b i d"), "k": named("b j d"), "v": named("b j e")})
    assert tensors["q"].shape == (4, 1, 4, 4)
    solved = solve(pattern, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    assert name_output(solved, torch.zeros(4, 1, 4, 4)).names == ("b", "i", "e")


def test_a_rest_takes_the_names_that_are_left_over():
    text = "..b i d, ..b j d, ..b j e -> ..b i e"
    q, k, v = named("x y i d", x=2), named("y j x d", x=2), named("j e x y", x=2)
    pattern, tensors = arrange(parse(text), {"q": q, "k": k, "v": v})
    assert str(pattern) == "x y i d, x y j d, x y j e -> x y i e"
    assert tensors["k"].shape == (2, 4, 4, 4)


def test_two_sequences_are_not_one_because_their_lengths_agree(message):
    decoder = named("b h seq_q d")
    lines = message(CoordinateError, lambda: arrange(parse(CROSS), {"q": decoder, "k": decoder, "v": decoder}))
    assert lines == [
        'k does not carry "seq_k", which the pattern asks of it.',
        f"    {CROSS}",
        "                     ^^^^^",
        "    k: b=4 h=4 seq_q=4 d=4   (argument 2)",
        '  Equal lengths do not make "seq_q" be "seq_k"; if it is meant, write k.rename(seq_q="seq_k")',
    ]


def test_a_tensor_that_lacks_several(message):
    lines = message(CoordinateError, lambda: arrange(parse(CROSS), {"v": named("b e")}))
    assert lines[0] == 'v does not carry "h" and "seq_k", which the pattern asks of it.'
    assert lines[-1] == '  Give a tensor with the coordinates "b", "h", "seq_k" and "e".'


def test_a_tensor_that_carries_more(message):
    lines = message(CoordinateError, lambda: arrange(parse(CROSS), {"k": named("b layer h seq_k d")}))
    assert lines == [
        'k carries "layer", which the pattern does not give it.',
        f"    {CROSS}",
        "                 ^^^^^^^^^^^",
        "    k: b=4 layer=4 h=4 seq_k=4 d=4   (argument 2)",
        "  Add it to the pattern, or choose with k.at(...).",
    ]


def test_rests_of_different_names(message):
    text = "..b i d, ..b j d, ..b j e -> ..b i e"
    given = {"q": named("x i d"), "k": named("y j d"), "v": named("x j e")}
    assert message(CoordinateError, lambda: arrange(parse(text), given)) == [
        '..b stands for "x" elsewhere, and for "y" in k.',
        f"    {text}",
        "             ^^^",
        "    k: y=4 j=4 d=4   (argument 2)",
        "  A rest stands for the same coordinates wherever it is written.",
    ]
    lines = message(CoordinateError, lambda: arrange(parse(text), given | {"k": named("j d")}))
    assert lines[0] == '..b stands for "x" elsewhere, and for nothing in k.'
