"""What a call says of tensors, options, positions and names that do not fit: every message, word for word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import qkv

GQA = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
CROSS = "b h seq_q d, b h seq_k d, b h seq_k e -> b h seq_q e"
q = k = torch.zeros(1, 2, 3, 4)
ZERO = torch.zeros(3, dtype=torch.int64)

Case = tuple[str, Callable[[], object], type[qkv.QkvError], str]
CASES: list[Case] = [
    (
        "an unknown option",
        lambda: qkv.Spec()(q, k, k, keep=qkv.causal()),
        qkv.SpecError,
        (
            "unknown option keep.\n"
            "  Known: align, dropout, positions, seed, sizes, want. Parts (keep, score, ...) belong "
            "to the spec."
        ),
    ),
    (
        "an unknown want",
        lambda: qkv.Spec().run(q, k, k, want=("lse", "variance")),
        qkv.SpecError,
        ("want=['variance'] is not known.\n  Known: lse, max_logit, entropy, argmax, weights."),
    ),
    (
        "lse of sigmoid weights",
        lambda: qkv.Spec(weights=qkv.sigmoid()).run(q, k, k, want="lse"),
        qkv.SpecError,
        (
            "want=['lse']: sigmoid(bias=0) weights have none.\n"
            "  Only a softmax divides a row by a sum of exponentials; max_logit, argmax and weights "
            "can be wanted."
        ),
    ),
    (
        "entropy of linear weights",
        lambda: qkv.Spec(weights=qkv.linear()).run(q, k, k, want=("entropy", "lse")),
        qkv.SpecError,
        (
            "want=['entropy', 'lse']: linear(\"elu1\") weights have none.\n"
            "  Only a softmax divides a row by a sum of exponentials; max_logit, argmax and weights "
            "can be wanted."
        ),
    ),
    (
        "dropout of one",
        lambda: qkv.attention(q, k, k, dropout=1.0),
        qkv.SpecError,
        ("dropout=1.0 must be a probability in [0, 1).\n  It is the share of weights that are dropped."),
    ),
    (
        "dropout below zero",
        lambda: qkv.attention(q, k, k, dropout=-0.5),
        qkv.SpecError,
        ("dropout=-0.5 must be a probability in [0, 1).\n  It is the share of weights that are dropped."),
    ),
    (
        "an unknown strategy",
        lambda: qkv.strategy("fast").__enter__(),
        qkv.SpecError,
        ('strategy "fast" is not known.\n  Known: reference, chunked, cpu, sdpa, linear, absorbed.'),
    ),
    (
        "a list",
        lambda: qkv.attention([1.0], k, k),
        qkv.DtypeError,
        ("q is list, not a torch tensor.\n  Convert it: torch.as_tensor(q)."),
    ),
    (
        "whole numbers",
        lambda: qkv.attention(q.long(), k.long(), k.long()),
        qkv.DtypeError,
        ("q is torch.int64; attention is computed on float64, float32, bfloat16, float16.\n  Convert it: q.float()."),
    ),
    (
        "complex numbers",
        lambda: qkv.attention(q.to(torch.complex64), k, k),
        qkv.DtypeError,
        (
            "q is torch.complex64; attention is computed on float64, float32, bfloat16, float16.\n"
            "  Convert it: q.float()."
        ),
    ),
    (
        "two dtypes",
        lambda: qkv.attention(q, k.double(), k),
        qkv.DtypeError,
        ("k is torch.float64 and q is torch.float32.\n  Give one dtype: k.to(q.dtype)."),
    ),
    (
        "a key elsewhere",
        lambda: qkv.attention(q, k.to("meta"), k),
        qkv.DeviceError,
        ("k is on the meta device, which holds no values.\n  Give tensors with values."),
    ),
    (
        "a mask elsewhere",
        lambda: qkv.attention(q, k, k, keep=qkv.padding(torch.ones(1, 3, device="meta").bool())),
        qkv.DeviceError,
        ("mask is on meta, q on cpu.\n  Move it: tensor.to(q.device), then make the term again."),
    ),
    (
        "a sink elsewhere",
        lambda: qkv.attention(q, k, k, weights=qkv.softmax(sink=torch.ones(2, device="meta"))),
        qkv.DeviceError,
        ("sink is on meta, q on cpu.\n  Move it: tensor.to(q.device), then make the term again."),
    ),
    (
        "value rows elsewhere",
        lambda: qkv.attention(q, k, k, score=qkv.shaw(torch.zeros(3, 4), torch.zeros(3, 4, device="meta"))),
        qkv.DeviceError,
        ("value_table is on meta, q on cpu.\n  Move it: tensor.to(q.device), then make the term again."),
    ),
    (
        "no features",
        lambda: qkv.attention(q[..., :0], k[..., :0], k),
        qkv.ShapeError,
        (
            'feature coordinate "d" has size 0, so there is nothing to multiply.\n'
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            "  Was a slice empty?"
        ),
    ),
    (
        "two axes",
        lambda: qkv.attention(q[0, 0], k, k),
        qkv.ShapeError,
        (
            "q has 2 axes, and its pattern names 4.\n"
            "    pattern: b h i d\n"
            "    shape:   (3, 4)   (argument 1)\n"
            "  Give q with these axes, or write the pattern of the axes it has."
        ),
    ),
    (
        "keys and values of two lengths",
        lambda: qkv.attention(q, k, k[:, :, :2]),
        qkv.SizeMismatch,
        (
            'coordinate "j" has two sizes.\n'
            "    k: j=3   (argument 2: b=1 h=2 j=3 d=4)\n"
            "    v: j=2   (argument 3: b=1 h=2 j=2 e=4)\n"
            '  Every tensor that carries "j" must agree. Was the last value dropped?'
        ),
    ),
    (
        "two batch sizes",
        lambda: qkv.attention(q, k.expand(5, 2, 3, 4), k.expand(5, 2, 3, 4)),
        qkv.SizeMismatch,
        (
            'coordinate "b" has two sizes.\n'
            "    q: b=1   (argument 1: b=1 h=2 i=3 d=4)\n"
            "    k: b=5   (argument 2: b=5 h=2 j=3 d=4)\n"
            "    v: b=5   (argument 3: b=5 h=2 j=3 e=4)\n"
            '  Every tensor that carries "b" must agree. A size of 1 does not spread: to share q, '
            'squeeze it and leave "b" out there.'
        ),
    ),
    (
        "features of two sizes",
        lambda: qkv.attention(q, k[..., :3], k),
        qkv.SizeMismatch,
        (
            'coordinate "d" has two sizes.\n'
            "    q: d=4   (argument 1: b=1 h=2 i=3 d=4)\n"
            "    k: d=3   (argument 2: b=1 h=2 j=3 d=3)\n"
            '  Every tensor that carries "d" must agree. Was the last value dropped?'
        ),
    ),
    (
        "heads that do not divide",
        lambda: qkv.attention(torch.zeros(1, 5, 3, 4), k, k, GQA),
        qkv.SizeMismatch,
        (
            'coordinate "g" has no size: (h g)=5 is not a multiple of h=2.\n'
            "    q: (h g)=5   (argument 1: b=1 (h g)=5 i=3 d=4)\n"
            "    k: h=2   (argument 2: b=1 h=2 j=3 d=4)\n"
            "    v: h=2   (argument 3: b=1 h=2 j=3 e=4)\n"
            "  A merged axis is the product of its parts, major to minor. Does (h g) list what the "
            "axis holds?"
        ),
    ),
    (
        "merged sizes left open",
        lambda: qkv.attention(
            torch.zeros(6, 3, 4), torch.zeros(3, 4), torch.zeros(3, 4), "(g h) i d, j d, j e -> (g h) i e"
        ),
        qkv.SizeMismatch,
        (
            '"g" and "h" cannot be solved from (g h)=6.\n'
            "    q: (g h)=6   (argument 1: (g h)=6 i=3 d=4)\n"
            '  No other tensor says either. Give the size beside the pattern: sizes={"h": ...}'
        ),
    ),
    (
        "an odd feature in two maps",
        lambda: qkv.attention(q[..., :3], k[..., :3], k, weights=qkv.differential(0.5)),
        qkv.SizeMismatch,
        (
            "differential: the feature (d=3) cannot be split in half.\n"
            "  Give an even feature size, or name a feature coordinate of size 2: branch=..."
        ),
    ),
    (
        "three branches",
        lambda: qkv.attention(
            torch.zeros(1, 3, 3, 4),
            torch.zeros(1, 3, 3, 4),
            k[0],
            "b i c d, b j c d, b j e -> b i e",
            weights=qkv.differential(0.5, branch="c"),
        ),
        qkv.SizeMismatch,
        (
            'coordinate "b" has two sizes.\n'
            "    q: b=1   (argument 1: b=1 i=3 c=3 d=4)\n"
            "    k: b=1   (argument 2: b=1 j=3 c=3 d=4)\n"
            "    v: b=2   (argument 3: b=2 j=3 e=4)\n"
            '  Every tensor that carries "b" must agree. A size of 1 does not spread: to share q, '
            'squeeze it and leave "b" out there.'
        ),
    ),
    (
        "a mask of another length",
        lambda: qkv.attention(q, k, k, keep=qkv.padding(torch.ones(1, 4).bool())),
        qkv.SizeMismatch,
        (
            'coordinate "j" has two sizes.\n'
            "    call:    j=3\n"
            "    padding: j=4   (axis 1 of a tensor of shape (1, 4))\n"
            "  A captured tensor has this call's sizes along the coordinates it names; size 1 does "
            "not stand for others: leave the coordinate out instead."
        ),
    ),
    (
        "a mask of size one",
        lambda: qkv.attention(
            torch.zeros(2, 2, 3, 4),
            torch.zeros(2, 2, 3, 4),
            torch.zeros(2, 2, 3, 4),
            keep=qkv.padding(torch.ones(1, 3).bool()),
        ),
        qkv.SizeMismatch,
        (
            'coordinate "b" has two sizes.\n'
            "    call:    b=2\n"
            "    padding: b=1   (axis 0 of a tensor of shape (1, 3))\n"
            "  A captured tensor has this call's sizes along the coordinates it names; size 1 does "
            "not stand for others: leave the coordinate out instead."
        ),
    ),
    (
        "slopes of other heads",
        lambda: qkv.attention(q, k, k, score=qkv.alibi(torch.ones(3))),
        qkv.SizeMismatch,
        (
            'coordinate "h" has two sizes.\n'
            "    call:  h=2\n"
            "    alibi: h=3   (axis 0 of a tensor of shape (3,))\n"
            "  A captured tensor has this call's sizes along the coordinates it names; size 1 does "
            "not stand for others: leave the coordinate out instead."
        ),
    ),
    (
        "a key table of another feature",
        lambda: qkv.attention(q, k, k, score=qkv.shaw(torch.zeros(3, 5))),
        qkv.SizeMismatch,
        ("shaw: key_table has vectors of size 5, and the feature has size 4.\n  Give a table of shape [3, 4]."),
    ),
    (
        "a value table of another feature",
        lambda: qkv.attention(q, k, k, score=qkv.shaw(torch.zeros(3, 4), torch.zeros(3, 5))),
        qkv.SizeMismatch,
        ("shaw: value_table has vectors of size 5, and the value feature has size 4.\n  Give a table of shape [3, 4]."),
    ),
    (
        "an odd feature rotated",
        lambda: qkv.attention(q[..., :3], k[..., :3], k, position=qkv.rope()),
        qkv.SpecError,
        (
            "rope: 3 of 3 features would be rotated (fraction = 1).\n"
            "  Features are rotated in pairs: the number must be even and at least 2."
        ),
    ),
    (
        "a lookup outside its table",
        lambda: qkv.attention(q, k, k, score=qkv.score(lambda score, i, j: score + torch.zeros(2)[j])),
        qkv.SpecError,
        (
            "`tensor[j]` reads outside its table, whose shape is (2,).\n"
            "  Give a larger table, or bound the index: torch.clamp(i - j, 0, n - 1), or "
            "qkv.where(inside, table[...], other)."
        ),
    ),
    (
        "a mask's lookup outside",
        lambda: qkv.attention(q, k, k, keep=qkv.keep(lambda i, j: torch.ones(2).bool()[j])),
        qkv.SpecError,
        (
            "`tensor[j]` reads outside its table, whose shape is (2,).\n"
            "  Give a larger table, or bound the index: torch.clamp(i - j, 0, n - 1), or "
            "qkv.where(inside, table[...], other)."
        ),
    ),
    (
        "a sparse tensor",
        lambda: qkv.attention(q.to_sparse(), k, k),
        qkv.DtypeError,
        ("q is sparse_coo.\n  Make it dense: q.to_dense()."),
    ),
    (
        "on the meta device",
        lambda: qkv.attention(q.to("meta"), k.to("meta"), k.to("meta")),
        qkv.DeviceError,
        ("q is on the meta device, which holds no values.\n  Give tensors with values."),
    ),
    (
        "a feature map that drops an axis",
        lambda: qkv.attention(q, k, k, weights=qkv.linear(lambda x: x.sum(-1))),
        qkv.ShapeError,
        (
            "linear: the feature map makes (1, 2, 3) of (1, 2, 3, 4).\n"
            "  It maps the last axis, and leaves all others as they are."
        ),
    ),
    (
        "ids of another batch",
        lambda: qkv.attention(q, k, k, keep=qkv.documents(torch.zeros(2, 3).long())),
        qkv.SizeMismatch,
        (
            'coordinate "b" has two sizes.\n'
            "    call:      b=1\n"
            "    documents: b=2   (axis 0 of a tensor of shape (2, 3))\n"
            "  A captured tensor has this call's sizes along the coordinates it names; size 1 does "
            "not stand for others: leave the coordinate out instead."
        ),
    ),
    (
        "blocks of other heads",
        lambda: qkv.attention(q, k, k, keep=qkv.blocks(torch.ones(3, 2, 2).bool(), 2, "h i j")),
        qkv.SizeMismatch,
        (
            'coordinate "h" has two sizes.\n'
            "    call:   h=2\n"
            "    blocks: h=3   (axis 0 of a tensor of shape (3, 2, 2))\n"
            "  A captured tensor has this call's sizes along the coordinates it names; size 1 does "
            "not stand for others: leave the coordinate out instead."
        ),
    ),
    (
        "positions that are no mapping",
        lambda: qkv.attention(q, k, k, positions=5),
        qkv.SpecError,
        ('positions=5 (int) is not understood.\n  Give places by coordinate: positions={"i": 5}.'),
    ),
    (
        "sizes that are no mapping",
        lambda: qkv.attention(q, k, k, sizes=3),
        qkv.SpecError,
        ('sizes=3 (int) is not understood.\n  Give sizes by coordinate: sizes={"g": 4}.'),
    ),
    (
        "a seed of text",
        lambda: qkv.Spec().run(q, k, k, dropout=0.5, seed="a"),
        qkv.SpecError,
        ("seed='a' (str) is not understood.\n  Give a whole number."),
    ),
    (
        "a want of a number",
        lambda: qkv.Spec().run(q, k, k, want=3),
        qkv.SpecError,
        ("want=3 (int) is not understood.\n  Give a name, or several: want=('lse', 'entropy')."),
    ),
    (
        "a want of nothing",
        lambda: qkv.Spec().run(q, k, k, want=None),
        qkv.SpecError,
        ("want=None (NoneType) is not understood.\n  Give a name, or several: want=('lse', 'entropy')."),
    ),
    (
        "a want where only the output is returned",
        lambda: qkv.Spec()(q, k, k, want=("lse",)),
        qkv.SpecError,
        (
            "want=('lse',) is given where only the output is returned.\n"
            "  Call spec.run(q, k, v, want=...), which returns a Result."
        ),
    ),
    (
        "sizes that disagree",
        lambda: qkv.attention(q, k, k, sizes={"h": 7}),
        qkv.SizeMismatch,
        (
            'coordinate "h" has two sizes.\n'
            "    q: h=2   (argument 1: b=1 h=2 i=3 d=4)\n"
            "    k: h=2   (argument 2: b=1 h=2 j=3 d=4)\n"
            "    v: h=2   (argument 3: b=1 h=2 j=3 e=4)\n"
            "    sizes: h=7\n"
            '  Every tensor that carries "h" must agree. Take "h" out of sizes=, which is for sizes '
            "that shapes leave open."
        ),
    ),
    (
        "sizes of another pattern",
        lambda: qkv.attention(q, k, k, sizes={"zz": 7}),
        qkv.CoordinateError,
        (
            'sizes= names "zz", which the pattern does not carry.\n'
            "    b h i d, b h j d, b h j e -> b h i e\n"
            '  Its coordinates are "b", "h", "i", "d", "j" and "e".'
        ),
    ),
    (
        "a strategy that is no text",
        lambda: qkv.strategy(["sdpa"]).__enter__(),
        qkv.SpecError,
        ("strategy \"['sdpa']\" is not known.\n  Known: reference, chunked, cpu, sdpa, linear, absorbed."),
    ),
    (
        "components alone do not order a mask",
        lambda: qkv.attention(
            q[:, :, :1],
            k,
            k,
            position=qkv.rope(sections=(1, 1)),
            keep=qkv.causal(),
            positions={"i": (ZERO.expand(2, 3)[:, :1], "section i"), "j": (ZERO.expand(2, 3), "section j")},
        ),
        qkv.PositionError,
        (
            "nothing says where the queries stand among the keys.\n"
            "    queries: i=1\n"
            "    keys:    j=3\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            '  Say align="end" (the last query stands at the last key, as in decoding), '
            'align="start", or positions={"i": first}.'
        ),
    ),
    (
        "nothing says where",
        lambda: qkv.attention(q[:, :, :1], k, k, keep=qkv.causal()),
        qkv.PositionError,
        (
            "nothing says where the queries stand among the keys.\n"
            "    queries: i=1\n"
            "    keys:    j=3\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            '  Say align="end" (the last query stands at the last key, as in decoding), '
            'align="start", or positions={"i": first}.'
        ),
    ),
    (
        "rope says nothing either",
        lambda: qkv.attention(q[:, :, :1], k, k, position=qkv.rope()),
        qkv.PositionError,
        (
            "nothing says where the queries stand among the keys.\n"
            "    queries: i=1\n"
            "    keys:    j=3\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            '  Say align="end" (the last query stands at the last key, as in decoding), '
            'align="start", or positions={"i": first}.'
        ),
    ),
    (
        "an unknown alignment",
        lambda: qkv.attention(q, k, k, align="left"),
        qkv.PositionError,
        (
            'align="left" is not known.\n'
            '  "start": the first query stands at the first key; "end": the last query stands at the '
            "last key."
        ),
    ),
    (
        "positions of a feature",
        lambda: qkv.attention(q, k, k, positions={"d": 3}),
        qkv.PositionError,
        (
            'positions: "d" is not a coordinate of the scores.\n'
            "    scores have: b h i j\n"
            "  Name the query or the key coordinate."
        ),
    ),
    (
        "positions of keys alone",
        lambda: qkv.attention(q, k, k, keep=qkv.causal(), positions={"j": 3}),
        qkv.PositionError,
        (
            'positions are given for the keys "j" and not for the queries "i".\n'
            '  Give both: positions={"i": ..., "j": ...}.'
        ),
    ),
    (
        "align and positions",
        lambda: qkv.attention(q, k, k, keep=qkv.causal(), align="end", positions={"i": 3}),
        qkv.PositionError,
        ('align="end" and positions are both given.\n  Give one of them; positions says more.'),
    ),
    (
        "positions by a list",
        lambda: qkv.attention(q, k, k, keep=qkv.causal(), positions={"i": [0, 1, 2]}),
        qkv.PositionError,
        (
            'positions["i"] is [0, 1, 2].\n'
            '  Give the first position, a tensor with one for each element, or (tensor, "b i").'
        ),
    ),
    (
        "positions by fractions",
        lambda: qkv.attention(q, k, k, keep=qkv.causal(), positions={"i": torch.zeros(3)}),
        qkv.DtypeError,
        ('positions["i"] are torch.float32.\n  Positions are whole numbers: tensor.long().'),
    ),
    (
        "positions elsewhere",
        lambda: qkv.attention(q, k, k, keep=qkv.causal(), positions={"i": torch.zeros(3, device="meta").long()}),
        qkv.DeviceError,
        ('positions["i"] are on meta, q on cpu.\n  Move them: positions.to(q.device).'),
    ),
    (
        "positions of another length",
        lambda: qkv.attention(q, k, k, keep=qkv.causal(), positions={"i": torch.arange(4)}),
        qkv.ShapeError,
        (
            'positions["i"] have the shape (4,); the pattern "i" means i=3.\n'
            '  Give one position for each element of "i", or (tensor, "b i").'
        ),
    ),
    (
        "positions of another pattern",
        lambda: qkv.attention(q, k, k, keep=qkv.causal(), positions={"i": (torch.zeros(2, 3).long(), "b i")}),
        qkv.ShapeError,
        (
            'positions["i"] have the shape (2, 3); the pattern "b i" means b=1 i=3.\n'
            '  Give one position for each element of "i", or (tensor, "b i").'
        ),
    ),
    (
        "only q named",
        lambda: qkv.attention(qkv.Named(q, "b h i d"), k, k),
        qkv.CoordinateError,
        (
            "k is Tensor without names, and others are Named.\n"
            '  Name it: qkv.Named(k, "b h j d"), or give three plain tensors and a pattern.'
        ),
    ),
    (
        "names of two sizes",
        lambda: qkv.attention(
            qkv.Named(q, "b h i d"), qkv.Named(k, "b h j d"), qkv.Named(torch.zeros(1, 2, 5, 4), "b h j e")
        ),
        qkv.SizeMismatch,
        ('coordinate "j" has two sizes.\n    k: j=3\n    v: j=5\n  Every tensor that carries "j" must agree.'),
    ),
    (
        "the decoder twice",
        lambda: qkv.Spec(CROSS)(qkv.Named(q, "b h seq_q d"), qkv.Named(k, "b h seq_q d"), qkv.Named(k, "b h seq_q e")),
        qkv.CoordinateError,
        (
            'k does not carry "seq_k", which the pattern asks of it.\n'
            "    b h seq_q d, b h seq_k d, b h seq_k e -> b h seq_q e\n"
            "                     ^^^^^\n"
            "    k: b=1 h=2 seq_q=3 d=4   (argument 2)\n"
            '  Equal lengths do not make "seq_q" be "seq_k"; if it is meant, write '
            'k.rename(seq_q="seq_k")'
        ),
    ),
    (
        "a step of softmax",
        lambda: qkv.linear_step(qkv.Spec(keep=qkv.causal()), q, k, k),
        qkv.SpecError,
        (
            "linear_step: the weights are softmax().\n"
            "  Only linear weights have a state: qkv.Spec(..., weights=qkv.linear())."
        ),
    ),
    (
        "a step without causal",
        lambda: qkv.linear_step(qkv.Spec(weights=qkv.linear()), q, k, k),
        qkv.SpecError,
        (
            "linear_step: the spec must have keep=qkv.causal() and no position.\n"
            "  A state sums over all positions before; rotate q and k before the step."
        ),
    ),
    (
        "a step of three",
        lambda: qkv.linear_step(qkv.Spec(keep=qkv.causal(), weights=qkv.linear()), q, k, k),
        qkv.ShapeError,
        (
            "linear_step: 3 queries and 3 keys are given.\n"
            "  A step takes one position; run the spec itself for a sequence."
        ),
    ),
    (
        "a step with rope",
        lambda: qkv.linear_step(
            qkv.Spec(keep=qkv.causal(), weights=qkv.linear(), position=qkv.rope()),
            q[:, :, :1],
            k[:, :, :1],
            k[:, :, :1],
        ),
        qkv.SpecError,
        (
            "linear_step: the spec must have keep=qkv.causal() and no position.\n"
            "  A state sums over all positions before; rotate q and k before the step."
        ),
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_message(call: Callable[[], object], kind: type[qkv.QkvError], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == message
