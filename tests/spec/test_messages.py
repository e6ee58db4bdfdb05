"""What a spec says of parts that make no sense, alone or together: every message, word for word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import qkv

Case = tuple[str, Callable[[], object], type[qkv.QkvError], str]
CASES: list[Case] = [
    (
        "a pattern that is no text",
        lambda: qkv.Spec(3),
        qkv.SpecError,
        (
            "pattern=3 must be a text.\n"
            "  Write the coordinates of q, k, v and the output: 'b h i d, b h j d, b h j e -> b h i "
            "e'."
        ),
    ),
    (
        "a scale of NaN",
        lambda: qkv.Spec(scale=float("nan")),
        qkv.SpecError,
        (
            "scale=nan must be a finite number, or None for 1/sqrt(size of the feature coordinate).\n"
            "  A learned temperature is a score term: qkv.score(lambda score, h: score * "
            "temperature[h])."
        ),
    ),
    (
        "a scale of infinity",
        lambda: qkv.Spec(scale=float("inf")),
        qkv.SpecError,
        (
            "scale=inf must be a finite number, or None for 1/sqrt(size of the feature coordinate).\n"
            "  A learned temperature is a score term: qkv.score(lambda score, h: score * "
            "temperature[h])."
        ),
    ),
    (
        "a scale of truth",
        lambda: qkv.Spec(scale=True),
        qkv.SpecError,
        (
            "scale=True must be a finite number, or None for 1/sqrt(size of the feature coordinate).\n"
            "  A learned temperature is a score term: qkv.score(lambda score, h: score * "
            "temperature[h])."
        ),
    ),
    (
        "a scale of a tensor",
        lambda: qkv.Spec(scale=torch.tensor(1.0)),
        qkv.SpecError,
        (
            "scale=tensor(1.) must be a finite number, or None for 1/sqrt(size of the feature "
            "coordinate).\n"
            "  A learned temperature is a score term: qkv.score(lambda score, h: score * "
            "temperature[h])."
        ),
    ),
    (
        "too many score terms",
        lambda: qkv.Spec(score=[qkv.softcap(1.0)] * 33),
        qkv.LimitError,
        ("33 score terms are more than 32.\n  Combine them in one function: qkv.score(lambda score, i, j: ...)."),
    ),
    (
        "a score under linear weights",
        lambda: qkv.Spec(score=qkv.softcap(5.0), weights=qkv.linear()),
        qkv.SpecError,
        (
            "linear weights have no score before a softmax that softcap(5) could change: they are "
            "products of feature maps.\n"
            "  Use softmax weights, or put the change into the feature map; distances can decay: "
            "linear(decay=0.9)."
        ),
    ),
    (
        "a scale under linear weights",
        lambda: qkv.Spec(scale=0.5, weights=qkv.linear()),
        qkv.SpecError,
        (
            "linear weights take no scale: inside phi it would be a change of q, and a factor of "
            "phi(q) . phi(k) cancels where rows are divided by their sum.\n"
            "  Scale q before the call, or leave scale out."
        ),
    ),
    (
        "shaw under differential weights",
        lambda: qkv.Spec(score=qkv.shaw(torch.zeros(3, 4)), weights=qkv.differential(0.5)),
        qkv.SpecError,
        (
            "shaw's tables have vectors of the whole feature, and differential weights split the "
            "feature in two.\n"
            "  Use relative_bias, which adds numbers, with differential weights."
        ),
    ),
    (
        "two shaws",
        lambda: qkv.Spec(score=[qkv.shaw(torch.zeros(3, 4))] * 2),
        qkv.SpecError,
        ("two shaw terms are given, and relative vectors are added to keys once.\n  Add the tables, or use one."),
    ),
    (
        "a branch that is no feature",
        lambda: qkv.Spec(weights=qkv.differential(0.5, branch="c")),
        qkv.SpecError,
        (
            'differential: branch="c" is not one of several feature coordinates.\n'
            "    features: d\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            "  Write a feature coordinate of size 2 into Q and K (b h i (c d), b h j (c d), ...), or "
            "leave branch out to split the feature in half."
        ),
    ),
    (
        "a coordinate that scores lack",
        lambda: qkv.Spec(keep=qkv.keep(lambda i, k: i >= k)),
        qkv.CoordinateError,
        (
            'keep function names the coordinate "k", which the scores do not have.\n'
            "    scores have: b h i j\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            "  A term may use shared, query-only and key coordinates."
        ),
    ),
    (
        "a feature in a mask",
        lambda: qkv.Spec(keep=qkv.keep(lambda d, j: j > d)),
        qkv.CoordinateError,
        (
            'keep function names the coordinate "d", which the scores do not have.\n'
            "    scores have: b h i j\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            "  A term may use shared, query-only and key coordinates."
        ),
    ),
    (
        "causal over two sequences",
        lambda: qkv.Spec("b y x d, b j d, b j e -> b y x e", keep=qkv.causal()),
        qkv.PositionError,
        (
            "causal(): which query coordinate is the sequence? 'y' and 'x' both could be.\n"
            "    pattern: b y x d, b j d, b j e -> b y x e\n"
            '  Say which: causal(query="x"). A head group may also stand in parentheses with its '
            "head: (h g)."
        ),
    ),
    (
        "causal over two keys",
        lambda: qkv.Spec("b i d, b y x d, b y x e -> b i e", keep=qkv.causal()),
        qkv.PositionError,
        (
            "causal(): which key coordinate is the sequence? 'y' and 'x' both could be.\n"
            "    pattern: b i d, b y x d, b y x e -> b i e\n"
            '  Say which: causal(key="x"). A head group may also stand in parentheses with its head: '
            "(h g)."
        ),
    ),
    (
        "causal of a shared query",
        lambda: qkv.Spec(keep=qkv.causal(query="b")),
        qkv.PositionError,
        (
            'causal(): "b" is not a coordinate of the queries alone.\n'
            "    queries alone have: i\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            "  Name a coordinate that Q and the output have and K and V lack."
        ),
    ),
    (
        "causal of a shared key",
        lambda: qkv.Spec(keep=qkv.causal(key="h")),
        qkv.PositionError,
        (
            'causal(): "h" is not a key coordinate.\n'
            "    key coordinates: j\n"
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            "  Name a coordinate that K and V have and Q lacks."
        ),
    ),
    (
        "causal without a query",
        lambda: qkv.Spec("b h d, b h j d, b h j e -> b h e", keep=qkv.causal()),
        qkv.PositionError,
        (
            "causal() needs a query sequence, and the pattern has none.\n"
            "    pattern: b h d, b h j d, b h j e -> b h e\n"
            "  Add a coordinate that Q and the output have, and K and V lack."
        ),
    ),
    (
        "no heads",
        lambda: qkv.Spec("b n i d, b n j d, b n j e -> b n i e", score=qkv.alibi()),
        qkv.SpecError,
        (
            "alibi(): which coordinate counts the heads? None in parentheses with a group, none "
            "called h, head or heads.\n"
            "    pattern: b n i d, b n j d, b n j e -> b n i e\n"
            '  Say which: alibi(head="...").'
        ),
    ),
    (
        "a rest that the pattern lacks",
        lambda: qkv.Spec(keep=qkv.padding(torch.ones(1, 3).bool(), "..b j")),
        qkv.CoordinateError,
        (
            'padding: the rest "..b" is not in the call\'s pattern.\n'
            "    pattern: b h i d, b h j d, b h j e -> b h i e\n"
            "  Use one of its rests, or name the axes."
        ),
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_message(call: Callable[[], object], kind: type[qkv.QkvError], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == message
