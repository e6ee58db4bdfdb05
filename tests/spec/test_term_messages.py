"""What each term says of arguments that it cannot use: every message, word for word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import qkv

Case = tuple[str, Callable[[], object], type[qkv.QkvError], str]
CASES: list[Case] = [
    (
        "and between masks",
        lambda: qkv.causal() and qkv.window(2),
        qkv.SpecError,
        (
            "`and`, `or`, `not` cannot combine masks: causal().\n"
            "  Write causal() & window(128), causal() | first(4), ~documents(ids)."
        ),
    ),
    (
        "mask with a number",
        lambda: qkv.causal() & 3,
        qkv.SpecError,
        (
            "a mask can be combined with another mask, not with int.\n"
            "  Wrap a function: qkv.keep(lambda i, j: ...); a tensor: qkv.padding(mask, 'b j')."
        ),
    ),
    (
        "window of nothing",
        lambda: qkv.window(0),
        qkv.SpecError,
        ("window(w): w=0 must be a whole number of at least 1.\n  Sizes and counts of positions are whole numbers."),
    ),
    (
        "window of a fraction",
        lambda: qkv.window(2.5),
        qkv.SpecError,
        ("window(w): w=2.5 must be a whole number of at least 1.\n  Sizes and counts of positions are whole numbers."),
    ),
    (
        "window left below zero",
        lambda: qkv.window(-1, 2),
        qkv.SpecError,
        (
            "window(left, right): left=-1 must be a whole number of at least 0.\n"
            "  Sizes and counts of positions are whole numbers."
        ),
    ),
    (
        "first below zero",
        lambda: qkv.first(-1),
        qkv.SpecError,
        (
            "first(count): count=-1 must be a whole number of at least 0.\n"
            "  Sizes and counts of positions are whole numbers."
        ),
    ),
    (
        "prefix of a truth value",
        lambda: qkv.prefix(True),
        qkv.SpecError,
        (
            "prefix(length): length=True must be a whole number of at least 0.\n"
            "  Sizes and counts of positions are whole numbers."
        ),
    ),
    (
        "dilated by zero",
        lambda: qkv.dilated(0),
        qkv.SpecError,
        (
            "dilated(step): step=0 must be a whole number of at least 1.\n"
            "  Sizes and counts of positions are whole numbers."
        ),
    ),
    (
        "padding by floats",
        lambda: qkv.padding(torch.zeros(1, 3)),
        qkv.DtypeError,
        (
            "padding needs a tensor of bool values; this one is torch.float32.\n"
            "  True means kept; write mask.bool(), or mask > -1 for a mask of 0 and -inf."
        ),
    ),
    (
        "padding by a list",
        lambda: qkv.padding([True]),
        qkv.DtypeError,
        ("padding needs a torch tensor, not list.\n  Write torch.as_tensor(values)."),
    ),
    (
        "documents by floats",
        lambda: qkv.documents(torch.zeros(3), "j"),
        qkv.DtypeError,
        ("documents needs a tensor of int values; this one is torch.float32.\n  Convert it: tensor.long()."),
    ),
    (
        "documents without the key",
        lambda: qkv.Spec(keep=qkv.documents(torch.zeros(3, dtype=torch.int64), "b")),
        qkv.ShapeError,
        (
            'documents: ids of shape (3,) do not have the axes "b" with the key "j" among them.\n'
            '  Ids are indexed by position: documents(ids, "b j") for ids of shape [batch, '
            "positions]."
        ),
    ),
    (
        "blocks of size zero",
        lambda: qkv.blocks(torch.ones(2, 2).bool(), 0),
        qkv.SpecError,
        ("blocks: size=0 must be a whole number of at least 1.\n  Sizes and counts of positions are whole numbers."),
    ),
    (
        "blocks without the key",
        lambda: qkv.Spec(keep=qkv.blocks(torch.ones(2, 2).bool(), 2, "h i")),
        qkv.ShapeError,
        (
            'blocks: a table of shape (2, 2) does not have the axes "h i" with "i" and "j" among '
            "them.\n"
            '  Its axes are block numbers: blocks(table, 2, "h i j") for a table of shape [heads, '
            "query blocks, key blocks]."
        ),
    ),
    (
        "too many random blocks",
        lambda: qkv.bigbird(num_random=65),
        qkv.LimitError,
        (
            "bigbird: num_random=65 is more than 32.\n"
            "  So many random blocks are better given as a table: qkv.blocks(table, size)."
        ),
    ),
    (
        "bigbird below zero",
        lambda: qkv.bigbird(window=-1),
        qkv.SpecError,
        (
            "bigbird: window=-1 must be a whole number of at least 0.\n"
            "  Sizes and counts of positions are whole numbers."
        ),
    ),
    (
        "a tree without nodes",
        lambda: qkv.tree([]),
        qkv.SpecError,
        ("tree: there are no nodes.\n  Give a parent for each draft token, -1 for a root: tree([-1, 0, 0])."),
    ),
    (
        "a child before its parent",
        lambda: qkv.tree([-1, 2, 0]),
        qkv.SpecError,
        (
            "tree: node 1 has parent 2, which does not come before it.\n"
            "  Order the nodes so that parents come first; -1 is a root."
        ),
    ),
    (
        "a tree of fractions",
        lambda: qkv.tree([-1, 0.5]),
        qkv.SpecError,
        (
            "tree: parents[1]=0.5 must be a whole number of at least -1.\n"
            "  Sizes and counts of positions are whole numbers."
        ),
    ),
    (
        "a tree too large",
        lambda: qkv.tree([-1] * 2049),
        qkv.LimitError,
        (
            "tree: 2049 nodes are more than 2048.\n"
            "  A draft is a few dozen tokens; give a larger mask as padding(mask, 'i j')."
        ),
    ),
    (
        "softcap of zero",
        lambda: qkv.softcap(0),
        qkv.SpecError,
        ("softcap: cap=0 must be positive.\n  A cap or a base of zero or less has no meaning here."),
    ),
    (
        "softcap of NaN",
        lambda: qkv.softcap(float("nan")),
        qkv.SpecError,
        (
            "softcap: cap=nan must be a finite number.\n"
            "  Give a Python number; learned values are given as tensors where the term takes them."
        ),
    ),
    (
        "alibi of text",
        lambda: qkv.alibi("steep"),
        qkv.SpecError,
        (
            "alibi: slopes='steep' must be a finite number.\n"
            "  Give a Python number; learned values are given as tensors where the term takes them."
        ),
    ),
    (
        "a bias without a pattern",
        lambda: qkv.bias(torch.zeros(3, 3)),
        qkv.SpecError,
        (
            "bias: nothing says what the axes of a tensor of shape (3, 3) are.\n"
            '  Name them: qkv.bias(tensor, "h i j"), or give a qkv.Named tensor.'
        ),
    ),
    (
        "a bias of whole numbers",
        lambda: qkv.bias(torch.zeros(3, dtype=torch.int64), "j"),
        qkv.DtypeError,
        ("bias needs a tensor of float values; this one is torch.int64.\n  Convert it: tensor.float()."),
    ),
    (
        "a bias of other axes",
        lambda: qkv.Spec(score=qkv.bias(torch.zeros(3, 3), "j")),
        qkv.ShapeError,
        (
            'bias: the tensor has 2 axes, shape (3, 3), and the pattern "j" names 1.\n'
            "  Give the pattern of its axes in order, or reshape it."
        ),
    ),
    (
        "buckets of three axes",
        lambda: qkv.relative_bias(torch.zeros(2, 2, 2)),
        qkv.ShapeError,
        (
            "relative_bias: a table of shape (2, 2, 2) does not have the axes (bucket, head) or "
            "(bucket,).\n"
            "  T5's has the shape [32, num_heads]."
        ),
    ),
    (
        "an even clip",
        lambda: qkv.relative_bias(torch.zeros(4), buckets="clip"),
        qkv.SpecError,
        ("relative_bias: 4 rows cannot be the distances -k..k.\n  Give 2k+1 rows: k before, the own one, k after."),
    ),
    (
        "unknown buckets",
        lambda: qkv.relative_bias(torch.zeros(4), buckets="swin"),
        qkv.SpecError,
        ('relative_bias: buckets="swin" is not known.\n  Known: "t5", "clip".'),
    ),
    (
        "too few buckets",
        lambda: qkv.relative_bias(torch.zeros(2)),
        qkv.SpecError,
        (
            "relative_bias: 2 buckets and max_distance=128 leave no logarithmic ones.\n"
            "  T5 has 32 buckets and max_distance=128."
        ),
    ),
    (
        "an even shaw",
        lambda: qkv.shaw(torch.zeros(4, 8)),
        qkv.SpecError,
        (
            "shaw: tables of shape (4, 8) do not have 2k+1 rows each.\n"
            "  Give [2k+1, feature size] for keys and [2k+1, value feature size] for values."
        ),
    ),
    (
        "two tables of shaw",
        lambda: qkv.shaw(torch.zeros(5, 8), torch.zeros(3, 8)),
        qkv.SpecError,
        (
            "shaw: tables of shape (5, 8) and (3, 8) do not have 2k+1 rows each.\n"
            "  Give [2k+1, feature size] for keys and [2k+1, value feature size] for values."
        ),
    ),
    (
        "sink and off by one",
        lambda: qkv.softmax(sink=0.0, off_by_one=True),
        qkv.SpecError,
        ("softmax: sink and off_by_one are both given, and off by one is a sink of score 0.\n  Give one of them."),
    ),
    (
        "an infinite sink",
        lambda: qkv.softmax(sink=float("inf")),
        qkv.SpecError,
        (
            "softmax: sink=inf must be a finite number.\n"
            "  Give a Python number; learned values are given as tensors where the term takes them."
        ),
    ),
    (
        "a sink of two axes",
        lambda: qkv.softmax(sink=torch.zeros(2, 2)),
        qkv.ShapeError,
        ("softmax: sink has the shape (2, 2).\n  Give one number, or one for each query head."),
    ),
    (
        "a sink of whole numbers",
        lambda: qkv.softmax(sink=torch.zeros(2, dtype=torch.int64)),
        qkv.DtypeError,
        ("softmax needs a tensor of float values; this one is torch.int64.\n  Convert it: tensor.float()."),
    ),
    (
        "sigmoid of NaN",
        lambda: qkv.sigmoid(bias=float("nan")),
        qkv.SpecError,
        (
            "sigmoid: bias=nan must be a finite number.\n"
            "  Give a Python number; learned values are given as tensors where the term takes them."
        ),
    ),
    (
        "both differential forms",
        lambda: qkv.differential(0.5, lambda_init=0.8, renormalize="clamp"),
        qkv.SpecError,
        (
            'differential: lambda_init (the paper form) and renormalize="clamp" are both given.\n'
            "  Give one of them, or neither for the plain difference."
        ),
    ),
    (
        "an unknown renormalization",
        lambda: qkv.differential(0.5, renormalize="softmax"),
        qkv.SpecError,
        ("differential: renormalize='softmax' is not known.\n  Known: None, \"clamp\"."),
    ),
    (
        "an infinite lambda",
        lambda: qkv.differential(float("inf")),
        qkv.SpecError,
        (
            "differential: lam=inf must be a finite number.\n"
            "  Give a Python number; learned values are given as tensors where the term takes them."
        ),
    ),
    (
        "an epsilon of zero",
        lambda: qkv.differential(0.5, eps=0.0),
        qkv.SpecError,
        ("differential: eps=0.0 must be positive.\n  A cap or a base of zero or less has no meaning here."),
    ),
    (
        "a feature map of a number",
        lambda: qkv.linear(3),
        qkv.SpecError,
        ("linear: feature_map=3 is not known.\n  Known: elu1, relu, exp, identity, or a function over the last axis."),
    ),
    (
        "ids merged with the batch",
        lambda: qkv.Spec(keep=qkv.documents(torch.zeros(3).long(), "(b j)")),
        qkv.ShapeError,
        (
            'documents: ids of shape (3,) do not have the axes "(b j)" with the key "j" among them.\n'
            '  Ids are indexed by position: documents(ids, "b j") for ids of shape [batch, '
            "positions]."
        ),
    ),
    (
        "an unknown feature map",
        lambda: qkv.linear("gelu"),
        qkv.SpecError,
        (
            "linear: feature_map='gelu' is not known.\n"
            "  Known: elu1, relu, exp, identity, or a function over the last axis."
        ),
    ),
    (
        "the identity normalized",
        lambda: qkv.linear("identity"),
        qkv.SpecError,
        (
            "linear: weights of the identity map may sum to 0, so rows cannot be divided by their "
            "sums.\n"
            "  Give normalize=False, or a map with positive values."
        ),
    ),
    (
        "a decay above one",
        lambda: qkv.linear(decay=1.5),
        qkv.SpecError,
        ("linear: decay=1.5 must lie in (0, 1].\n  1 means no decay; the weight at distance n is decay ** n."),
    ),
    (
        "a decay of nothing",
        lambda: qkv.linear(decay=0),
        qkv.SpecError,
        ("linear: decay=0 must lie in (0, 1].\n  1 means no decay; the weight at distance n is decay ** n."),
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_message(call: Callable[[], object], kind: type[qkv.QkvError], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == message
