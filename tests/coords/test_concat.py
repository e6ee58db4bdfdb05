"""Joining along a coordinate: by name in any layout, and nothing else may differ."""

from __future__ import annotations

import numpy as np
import torch

from qkv.coords.concat import concat
from qkv.coords.named import Named
from qkv.errors import CoordinateError, DeviceError, SizeMismatch


def named(text: str, **sizes: int) -> Named:
    return Named(torch.randn([sizes.get(name, 2) for name in text.split()]), text)


def test_the_coordinate_itself():
    a, b = named("b j d", j=3), named("d j b", j=1)
    result = concat(a, b, axis="j")
    assert result.sizes == {"b": 2, "j": 4, "d": 2}
    assert torch.equal(result.tensor, torch.cat([a.tensor, b.tensor.permute(2, 1, 0)], 1))
    assert torch.equal(concat([a, b], axis="j").tensor, result.tensor)


def test_coordinates_of_their_own_become_it():
    past, new = named("b past d", past=5), named("b d new", new=1)
    result = concat(past, new, axis="j")
    assert result.sizes == {"b": 2, "j": 6, "d": 2}
    assert torch.equal(result.slice(j=slice(5, None)).tensor[:, 0], new.tensor[:, :, 0])
    assert concat(past.rename(past="j"), new, axis="j").sizes["j"] == 6
    assert concat(past, new, named("b j d", j=4), axis="j").sizes["j"] == 10


def test_one_operand_and_empty_parts():
    a = named("b j", j=3)
    assert torch.equal(concat(a, axis="j").tensor, a.tensor)
    assert concat(named("b j", j=0), a, axis="j").sizes["j"] == 3


def test_gradients_and_types():
    a, b = Named(torch.zeros(2, requires_grad=True), "j"), Named(torch.zeros(3, dtype=torch.float64), "j")
    result = concat(a, b, axis="j")
    assert result.dtype == torch.float64
    result.sum().tensor.backward()
    assert a.tensor.grad.tolist() == [1, 1]


def test_another_coordinate_differs(message):
    assert message(CoordinateError, lambda: concat(named("b j d"), named("b j e"), axis="j")) == [
        'concat over "j": "d" is not carried by operand 2.',
        "    operand 1: b=2 j=2 d=2",
        "    operand 2: b=2 j=2 e=2",
        "  Operands differ in the coordinate that is joined and in nothing else.",
    ]
    assert message(CoordinateError, lambda: concat(named("b j"), named("b j h"), axis="j"))[0] == (
        'concat over "j": "h" is not carried by operand 1.'
    )


def test_nothing_to_join(message):
    assert message(CoordinateError, lambda: concat(named("b seq_k"), named("b seq_k"), axis="seq")) == [
        'operand 1 of concat has no coordinate "seq", and no coordinate that only it carries.',
        "    operand 1: b=2 seq_k=2",
        "    operand 2: b=2 seq_k=2",
        '  Did you mean "seq_k"?',
    ]
    lines = message(CoordinateError, lambda: concat(named("b past extra"), named("b new"), axis="j"))
    assert lines[0] == 'operand 1 of concat has no coordinate "j", and "past" and "extra" stand only there.'
    assert lines[-1] == "  Rename the coordinate that is joined: x.rename(old='j')"
    for alone in ("b past", "past"):
        message(CoordinateError, lambda alone=alone: concat(named(alone), axis="j"))


def test_sizes_that_disagree(message):
    assert message(SizeMismatch, lambda: concat(named("b j"), named("b j", b=3), axis="j")) == [
        'coordinate "b" has two sizes.',
        "    operand 1: b=2   (b=2 j=2)",
        "    operand 2: b=3   (b=3 j=2)",
        '  Every operand of concat that carries "b" must agree. Was the last value dropped?',
    ]


def test_what_is_not_named(message):
    assert message(CoordinateError, lambda: concat(named("j"), torch.zeros(2), axis="j"))[0] == (
        "concat is given a Tensor of shape (2,) without names, beside named tensors."
    )
    assert message(CoordinateError, lambda: concat([named("j"), np.zeros(2)], axis="j"))[0].startswith(
        "concat is given a ndarray"
    )
    assert message(CoordinateError, lambda: concat(["a"], axis="j")) == [
        "concat is given 'a', and named tensors are expected.",
        '  Write qkv.concat(past, new, axis="j")',
    ]
    assert message(CoordinateError, lambda: concat(3, axis="j"))[0] == (
        "concat is given 3, and named tensors are expected."
    )
    for nothing in ((), ([],)):
        assert message(CoordinateError, lambda nothing=nothing: concat(*nothing, axis="j")) == [
            "concat is given no tensors.",
            '  Write qkv.concat(past, new, axis="j")',
        ]


def test_devices(message):
    meta = Named(torch.zeros(2, device="meta"), "j")
    assert message(DeviceError, lambda: concat(named("j"), meta, axis="j"))[0] == (
        "the operands of concat live on different devices."
    )
