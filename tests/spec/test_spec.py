"""A spec is frozen data: what it holds, what it equals, how it is written, and what it asks of names."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import qkv

GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
IDS, MASK, BIAS = torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.bool), torch.zeros(5, 5)

WRITTEN: list[tuple[qkv.Spec, str]] = [
    (qkv.Spec(), 'Spec("b h i d, b h j d, b h j e -> b h i e")'),
    (
        qkv.Spec(GROUPED, keep=qkv.causal() & qkv.window(4096)),
        f'Spec("{GROUPED}", keep=causal() & window(4096))',
    ),
    (
        qkv.Spec("i d, j d, j e -> i e", keep=qkv.causal() & (qkv.window(4) | qkv.first(2))),
        'Spec("i d, j d, j e -> i e", keep=causal() & (window(4) | first(2)))',
    ),
    (
        qkv.Spec("i d, j d, j e -> i e", keep=~(qkv.window(1, 2) | qkv.dilated(3)) & ~qkv.prefix(2)),
        'Spec("i d, j d, j e -> i e", keep=~(window(1, 2) | dilated(3)) & ~prefix(2))',
    ),
    (
        qkv.Spec("i d, j d, j e -> i e", scale=0.5, weights=qkv.sigmoid(bias=-2)),
        'Spec("i d, j d, j e -> i e", weights=sigmoid(bias=-2), scale=0.5)',
    ),
    (
        qkv.Spec(keep=qkv.padding(MASK) & qkv.documents(IDS), score=(qkv.softcap(5.0), qkv.bias(BIAS, "i j"))),
        'Spec("b h i d, b h j d, b h j e -> b h i e", score=(softcap(5), bias(bias<5x5>, "i j")), '
        'keep=padding(mask<2x5>, "b j") & documents(ids<2x5>, "b j"))',
    ),
    (
        qkv.Spec(
            "i d, j d, j e -> i e",
            keep=qkv.keep(lambda i, j: (i - j) % 2 == 0),
            score=qkv.score(lambda score, i, j: score - 0.5 * abs(i - j)),
        ),
        'Spec("i d, j d, j e -> i e", score=score(score - (0.5 * abs(i - j))), keep=keep(((i - j) % 2) == 0))',
    ),
]


@pytest.mark.parametrize(("spec", "text"), WRITTEN, ids=[text for _, text in WRITTEN])
def test_a_spec_is_written_as_it_was_made(spec: qkv.Spec, text: str) -> None:
    assert repr(spec) == text


def test_a_spec_is_frozen() -> None:
    spec = qkv.Spec()
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.scale = 2.0  # type: ignore[misc]


def _made() -> list[qkv.Spec]:
    """Specs that differ in one thing each; made anew at every call."""
    return [
        qkv.Spec(),
        qkv.Spec(GROUPED),
        qkv.Spec(scale=0.5),
        qkv.Spec(scale=0.25),
        qkv.Spec(keep=qkv.causal()),
        qkv.Spec(keep=qkv.causal() & qkv.window(3)),
        qkv.Spec(keep=qkv.causal() | qkv.window(3)),
        qkv.Spec(keep=qkv.window(3) & qkv.causal()),
        qkv.Spec(keep=qkv.keep(lambda i, j: i >= j)),
        qkv.Spec(keep=qkv.padding(MASK)),
        qkv.Spec(keep=qkv.padding(MASK, "b i")),
        qkv.Spec(score=qkv.softcap(5.0)),
        qkv.Spec(score=(qkv.softcap(5.0), qkv.alibi())),
        qkv.Spec(score=(qkv.alibi(), qkv.softcap(5.0))),
        qkv.Spec(score=qkv.alibi(0.5)),
        qkv.Spec(position=qkv.rope()),
        qkv.Spec(position=qkv.rope(interleaved=True)),
        qkv.Spec(weights=qkv.sigmoid()),
        qkv.Spec(weights=qkv.softmax(sink=0.0)),
        qkv.Spec(weights=qkv.softmax(off_by_one=True)),
        qkv.Spec(weights=qkv.differential(0.5)),
        qkv.Spec(weights=qkv.linear()),
        qkv.Spec(weights=qkv.linear("relu")),
    ]


def test_specs_compare_and_hash_by_what_they_say() -> None:
    first, second = _made(), _made()
    for n, spec in enumerate(first):
        for m, other in enumerate(second):
            assert (spec == other) == (n == m), (spec, other)
        assert hash(spec) == hash(second[n])
    assert len({*first, *second}) == len(first)


def test_captured_tensors_compare_by_identity() -> None:
    assert qkv.Spec(keep=qkv.padding(MASK)) == qkv.Spec(keep=qkv.padding(MASK))
    assert qkv.Spec(keep=qkv.padding(MASK)) != qkv.Spec(keep=qkv.padding(MASK.clone()))


def test_one_score_term_is_a_tuple_of_one() -> None:
    term = qkv.softcap(5.0)
    assert qkv.Spec(score=term) == qkv.Spec(score=(term,)) == qkv.Spec(score=[term])
    assert qkv.Spec(score=None) == qkv.Spec(score=())


def test_the_default_weights_are_a_softmax() -> None:
    assert qkv.Spec(weights=qkv.softmax()) == qkv.Spec()


def test_a_changed_tensor_is_read_as_it_is_at_the_call() -> None:
    """Specs hold tensors and not their values: a mask that was changed between two calls is read anew."""
    mask = torch.ones(1, 4, dtype=torch.bool)
    q = k = v = torch.randn(1, 1, 4, 2)
    spec = qkv.Spec(keep=qkv.padding(mask))
    first = spec(q, k, v)
    mask[0, 3] = False
    assert spec(q, k, v).equal(qkv.attention(q, k, v, keep=qkv.padding(mask.clone())))
    assert not spec(q, k, v).equal(first)


# a pattern, and what a term that must choose says of it
CHOICES: list[tuple[str, str | None]] = [
    ("b h i d, b h j d, b h j e -> b h i e", None),
    (GROUPED, None),
    ("b (g h) i d, b h j d, b h j e -> b (g h) i e", None),
    ("b h i d, b j d, b j e -> b h i e", "query"),  # multi-query: h could be a sequence as well
    ("b h g i d, b h j d, b h j e -> b h g i e", "query"),
    ("b n i d, b j d, b j e -> b n i e", "query"),
    ("b y x d, b j d, b j e -> b y x e", "query"),
    ("b i d, b y x d, b y x e -> b i e", "key"),
]


@pytest.mark.parametrize(("pattern", "asked"), CHOICES, ids=[pattern for pattern, _ in CHOICES])
def test_terms_that_compare_ask_when_several_could_be_meant(pattern: str, asked: str | None) -> None:
    """qkv never guesses: causal, window and the others name the argument that settles it."""
    for make in (
        qkv.causal,
        lambda **o: qkv.window(3, **o),
        lambda **o: qkv.dilated(2, **o),
        lambda **o: qkv.prefix(2, **o),
    ):
        if asked is None:
            assert qkv.Spec(pattern, keep=make()).keep is not None
            continue
        with pytest.raises(qkv.PositionError, match=rf"which {asked} coordinate is the sequence.*(?s:.*)\({asked}="):
            qkv.Spec(pattern, keep=make())
        chosen = "i" if asked == "query" and " i " in pattern else "x"
        assert qkv.Spec(pattern, keep=make(**{asked: chosen})).keep is not None


def test_heads_are_found_where_they_can_be() -> None:
    """In parentheses with a group, or by name; else the term says which argument names them."""
    slopes = torch.ones(6)
    q, k = torch.randn(1, 6, 3, 4), torch.randn(1, 2, 3, 4)
    merged = qkv.attention(q, k, k, GROUPED, score=qkv.alibi(slopes), keep=qkv.causal())
    apart = "b g n i d, b n j d, b n j e -> b g n i e"
    split = q.unflatten(1, (2, 3)).transpose(1, 2)
    with pytest.raises(qkv.SpecError, match=r'which coordinate counts the heads(?s:.*)alibi\(head="..."\)'):
        qkv.Spec(apart, score=qkv.alibi(slopes, query="i"))
    named = qkv.attention(
        split, k, k, apart, score=qkv.alibi(slopes, head="(n g)", query="i"), keep=qkv.causal(query="i")
    )
    torch.testing.assert_close(named.transpose(1, 2).flatten(1, 2), merged)
