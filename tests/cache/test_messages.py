"""Every message of a cache that no other test reads, whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import qkv
from tests.cache.kinds import PATTERN, PLAIN, tokens

Q, K, V = tokens(4, 1)


def dense(count: int = 4) -> qkv.cache.Dense:
    cache = qkv.cache.Dense()
    cache.append(K[:, :, :count], V[:, :, :count])
    return cache


def ring(count: int) -> qkv.cache.Ring:
    cache = qkv.cache.Ring(4)
    for seed in range(count):
        _, k, v = tokens(1, seed)
        cache.append(k, v)
    return cache


def uneven() -> qkv.cache.Paged:
    cache = qkv.cache.Paged(qkv.cache.PagePool(2))
    cache.append(K, V, lengths=[4, 1])
    return cache


def placed() -> qkv.cache.Paged:
    cache = qkv.cache.Paged(qkv.cache.PagePool(2))
    cache.append(K, V, positions=3)
    return cache


LEARNER = K.clone().requires_grad_()
MERGED = qkv.Spec("b h i d, b (h j) d, b (h j) e -> b h i e")

MESSAGES: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    (
        "no cache",
        lambda: PLAIN(Q, K, V, cache=3),
        qkv.SpecError,
        "cache = 3 is no cache.\n  Make one: qkv.cache.Dense(), qkv.cache.Ring(window).",
    ),
    (
        "k and v missing",
        lambda: PLAIN(Q),
        qkv.DtypeError,
        "k is NoneType, not a torch tensor.\n  Give q, k and v; or a cache that holds keys: spec(q, cache=cache).",
    ),
    (
        "lengths without a cache",
        lambda: PLAIN(Q, K, V, lengths=[1, 2]),
        qkv.SpecError,
        "lengths=[1, 2] speaks of a cache, and there is none.\n  Give one of qkv.cache: spec(q, k, v, cache=cache).",
    ),
    (
        "v missing",
        lambda: PLAIN(Q, K, cache=dense()),
        qkv.SpecError,
        "v is missing: tokens are appended with both.\n  Give k and v, or neither to attend to what the cache holds.",
    ),
    (
        "named",
        lambda: PLAIN(qkv.Named(Q, "b h i d"), K, V, cache=dense()),
        qkv.CoordinateError,
        "a call with a cache takes plain tensors, and one is Named.\n"
        "  Give tensor.tensor with the pattern in the spec: a cache joins along the key, which is not a name.",
    ),
    (
        "a transform",
        lambda: torch.vmap(lambda x: PLAIN(x, K, V, cache=dense()))(Q.unsqueeze(0)),
        qkv.SpecError,
        "a torch.func transform (vmap, jvp, grad) is active, and a cache changes.\n"
        "  Call it outside, or give k and v as tensors without a cache.",
    ),
    (
        "a gradient",
        lambda: PLAIN(Q, LEARNER, V, cache=dense()),
        qkv.SpecError,
        "k or v needs a gradient, and a cache keeps numbers alone.\n"
        "  Decode under torch.no_grad() or torch.inference_mode(); train without a cache.",
    ),
    (
        "align",
        lambda: PLAIN(Q, K, V, cache=dense(), align="end"),
        qkv.SpecError,
        "align='end' is given with a cache, which says where the queries stand.\n"
        '  Leave it out, or give positions={"i": ...}.',
    ),
    (
        "invariant",
        lambda: PLAIN(Q, K, V, cache=dense(), invariant=1),
        qkv.SpecError,
        "invariant=1 is not understood.\n  Give True or False.",
    ),
    (
        "a merged key",
        lambda: MERGED(Q, K[:, 0], V[:, 0], cache=qkv.cache.Dense()),
        qkv.SpecError,
        "a cache joins along the key, and the pattern has j in b (h j) d.\n"
        "  Give the one key coordinate an axis of its own: b h j d.",
    ),
    (
        "values and keys",
        lambda: PLAIN(Q, K, V[:, :, :3], cache=qkv.cache.Dense()),
        qkv.SizeMismatch,
        "k has 4 tokens and v 3.\n  Every key has one value.",
    ),
    (
        "more queries than new tokens",
        lambda: PLAIN(Q, K[:, :, :2], V[:, :, :2], cache=dense()),
        qkv.PositionError,
        "nothing says where the queries stand.\n    queries: i=4\n    tokens:  2 new ones\n"
        '  Queries stand at the last tokens; give positions={"i": first} for others.',
    ),
    (
        "more queries than tokens",
        lambda: PLAIN(Q, cache=dense(2)),
        qkv.PositionError,
        "nothing says where the queries stand.\n    queries: i=4\n    tokens:  2 in the cache\n"
        '  Queries stand at the last tokens; give positions={"i": first} for others.',
    ),
    (
        "positions of a shared coordinate",
        lambda: PLAIN(Q, K, V, cache=dense(), positions={"b": 3}),
        qkv.PositionError,
        'positions: "b" is not a query or key coordinate.\n    scores have: b h i g j\n'
        "  Name the query or the key coordinate.",
    ),
    (
        "positions by head",
        lambda: PLAIN(
            Q.repeat(1, 2, 1, 1),
            K.repeat(1, 2, 1, 1),
            V.repeat(1, 2, 1, 1),
            cache=qkv.cache.Dense(),
            positions={"i": (torch.zeros(2, 4).long(), "h i")},
        ),
        qkv.PositionError,
        'positions of new tokens differ along h.\n  A cache keeps them by sequence: give (tensor, "b j").',
    ),
    (
        "an empty cache",
        lambda: PLAIN(Q, cache=qkv.cache.Dense()),
        qkv.CacheError,
        "spec(q, cache=): the dense cache is empty.\n  Append first: spec(q, k, v, cache=cache).",
    ),
    (
        "another layout",
        lambda: qkv.Spec("h i d, h j d, h j e -> h i e")(Q[0], cache=dense()),
        qkv.ShapeError,
        "the cache holds 2 shared coordinates, and the pattern has 1: h.\n"
        "  A cache serves one layout: that of its first append.",
    ),
    (
        "several features",
        lambda: qkv.Spec("b h i (c d), b h j (c d), b h j e -> b h i e")(Q[:, :1, :1], cache=dense()),
        qkv.SpecError,
        "the cache holds 4 features, and the pattern names several: c d.\n"
        "  Their sizes are known after a call that appends: spec(q, k, v, cache=cache).",
    ),
    (
        "a dropped token",
        lambda: PLAIN(Q[:, :, :1], cache=ring(9)),
        qkv.CacheError,
        "keep=causal() may keep tokens that the ring cache has dropped: it holds the last 4 of 9.\n"
        "  Give the spec the cache's window, keep=qkv.causal() & qkv.window(n), or use a larger or a dense cache.",
    ),
    (
        "a ring's truncate",
        lambda: ring(9).truncate(5),
        qkv.CacheError,
        "truncate(5): the next query needs tokens 2 to 4, and the ring has dropped all before 5.\n"
        "  It can take back 1 tokens; Ring(4, spare=n) keeps n more.",
    ),
    (
        "a ring's truncate of more",
        lambda: ring(3).truncate(4),
        qkv.CacheError,
        "truncate(4): the ring cache has seen 3 tokens.\n  Give how many of them to keep, from 0 to 3.",
    ),
    (
        "a truncate of more",
        lambda: dense().truncate(5),
        qkv.CacheError,
        "truncate(5): the dense cache holds 4 tokens.\n  Give how many of them to keep, from 0 to 4.",
    ),
    (
        "a paged truncate",
        lambda: uneven().truncate([1]),
        qkv.CacheError,
        "truncate([1]): the sequences of the paged cache have [4, 1] tokens.\n"
        "  Give how many of them to keep, one number for all or one for each.",
    ),
    (
        "a paged truncate with positions",
        lambda: placed().truncate([1, 2]),
        qkv.CacheError,
        "truncate: positions were given, and the sequences would differ in length.\n  Keep as many tokens of each.",
    ),
    (
        "reorder",
        lambda: dense().reorder([0, 2]),
        qkv.CacheError,
        "reorder: index = [0, 2] does not choose among 2 sequences.\n  Give a list of numbers from 0 to 1.",
    ),
    (
        "reorder of nothing",
        lambda: qkv.cache.Dense().reorder([0]),
        qkv.CacheError,
        "reorder: the dense cache has no sequences to choose from.\n"
        "  Its keys need a shared coordinate, and a first append.",
    ),
    (
        "lengths of a dense cache",
        lambda: dense().append(K, V, lengths=[1, 2]),
        qkv.CacheError,
        "lengths = [1, 2]: the sequences of a dense cache have one length.\n"
        "  A paged cache holds sequences of different lengths: qkv.cache.Paged(pool).",
    ),
    (
        "lengths out of bounds",
        lambda: uneven().append(K, V, lengths=[5, 0]),
        qkv.CacheError,
        "lengths = [5, 0]: each of 2 sequences has from 0 to 4 of the new tokens.\n"
        "  Give one number for each sequence; tokens behind it are padding.",
    ),
    (
        "positions and lengths",
        lambda: uneven().append(K, V, positions=3),
        qkv.CacheError,
        "positions are given, and the sequences of the paged cache differ in length.\n"
        "  Sequences of different lengths count their own tokens from 0: leave positions out.",
    ),
    (
        "a batch",
        lambda: qkv.cache.Paged().append(K[0, 0], V[0, 0]),
        qkv.CacheError,
        "append: a paged cache holds sequences, and k has no shared coordinate.\n"
        "  Give it a batch: b j d, with one sequence if there is one.",
    ),
    (
        "full",
        lambda: PLAIN(Q, K, V, cache=qkv.cache.Dense(capacity=3)),
        qkv.CacheError,
        "append: 4 tokens do not fit: the dense cache has room for 3 and holds 0.\n"
        "  Make it larger, leave the capacity out, or truncate first.",
    ),
    (
        "other features",
        lambda: dense().append(K[..., :2], V),
        qkv.SizeMismatch,
        "append: the feature of k have the size 2, and the cache holds 4.\n"
        "  A cache serves one layer and one batch; reorder(index) changes the batch.",
    ),
    (
        "another dtype",
        lambda: dense().append(K.float(), V.float()),
        qkv.DtypeError,
        "append: k is torch.float32, and the cache holds torch.float64.\n  Convert it, or begin a cache of that type.",
    ),
    (
        "whole numbers",
        lambda: dense().append(K.long(), V),
        qkv.DtypeError,
        "append: k is torch.int64.\n  A cache holds float tensors of keys and values.",
    ),
    (
        "no tensor",
        lambda: dense().append([1.0], V),
        qkv.DtypeError,
        "append: k is list.\n  A cache holds float tensors of keys and values.",
    ),
    (
        "one axis",
        lambda: qkv.cache.Dense().append(K[0, 0, 0], V),
        qkv.ShapeError,
        "append: k has the shape (4,).\n  Its axes are the shared coordinates, the tokens and the feature: b h j d.",
    ),
    (
        "two lengths",
        lambda: qkv.cache.Dense().append(K, V[:, :, :2]),
        qkv.SizeMismatch,
        "append: k has the shape (2, 1, 4, 4) and v (2, 1, 2, 3).\n"
        "  All axes but the last agree: shared coordinates, and as many values as keys.",
    ),
    (
        "two dtypes",
        lambda: qkv.cache.Dense().append(K, V.float()),
        qkv.DtypeError,
        "append: k is torch.float64 and v is torch.float32.\n  Give one dtype: v.to(k.dtype).",
    ),
    (
        "two devices",
        lambda: qkv.cache.Dense().append(K, V.to("meta")),
        qkv.DeviceError,
        "append: k is on cpu and v on meta.\n  Move one: v.to(k.device).",
    ),
    (
        "another device",
        lambda: dense().append(K.to("meta"), V.to("meta")),
        qkv.DeviceError,
        "append: k is on meta, and the cache on cpu.\n  Move it: k.to(...).",
    ),
    (
        "capacity",
        lambda: qkv.cache.Dense(capacity=0),
        qkv.SpecError,
        "Dense: capacity = 0.\n  Give a whole number of at least 1.",
    ),
    (
        "recent",
        lambda: qkv.cache.Quantized(recent=True),
        qkv.SpecError,
        "Quantized: recent = True.\n  Give a whole number of at least 0.",
    ),
    ("bits", lambda: qkv.cache.Quantized(bits=5), qkv.SpecError, "Quantized: bits = 5.\n  Codes have 8 or 4 bits."),
    (
        "a pool",
        lambda: qkv.cache.Paged(16),
        qkv.SpecError,
        "Paged: pool = 16.\n  Give a pool: qkv.cache.PagePool(page_size=64).",
    ),
    (
        "two pools",
        lambda: qkv.cache.Paged.together([uneven(), uneven()]),
        qkv.CacheError,
        "together: the caches are not of one pool.\n  Make them with the same PagePool.",
    ),
    (
        "together with positions",
        lambda: qkv.cache.Paged.together([placed()]),
        qkv.CacheError,
        "together: positions were given to one of the caches.\n  Their tokens count from 0.",
    ),
    (
        "together with nothing",
        lambda: qkv.cache.Paged.together([qkv.cache.Paged()]),
        qkv.CacheError,
        "together: one of the caches is empty, or turned otherwise.\n  Append to each first.",
    ),
    (
        "reuse of a cache in use",
        lambda: uneven().reuse([[1, 2], [3]]),
        qkv.CacheError,
        "reuse: the paged cache holds tokens.\n  Only an empty one can begin with known pages.",
    ),
    (
        "publish with positions",
        lambda: placed().publish([[1], [2]]),
        qkv.CacheError,
        "publish: positions were given to this cache, and pages are shared by tokens counted from 0.\n"
        "  Leave positions out.",
    ),
    (
        "publish for others",
        lambda: uneven().publish([[1]]),
        qkv.CacheError,
        "publish: token ids of 1 sequences, and the cache holds 2.\n  Give a list of ids for each sequence.",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), [m[1:] for m in MESSAGES], ids=[m[0] for m in MESSAGES])
def test_message(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == text


def test_another_rotation_is_an_error() -> None:
    cache = qkv.cache.Dense()
    one, two = (qkv.Spec(PATTERN, keep=qkv.causal(), position=qkv.rope(t)) for t in (1e4, 1e6))
    one(Q, K, V, cache=cache)
    with pytest.raises(qkv.CacheError) as caught:
        two(Q, K, V, cache=cache)
    assert str(caught.value) == (
        "the cache holds keys turned by rope(), and this call would turn them by rope(1e+06).\n"
        "  One cache serves one rotation; dynamic scalings need a fixed one, or a prefill from the start."
    )
    with pytest.raises(qkv.CacheError, match=r"turned by rope\(\), and this call would turn them by None\."):
        PLAIN(Q, K, V, cache=cache)
    assert cache.length == 4


def test_frequencies_that_change_with_the_length() -> None:
    spec = qkv.Spec(PATTERN, keep=qkv.causal(), position=qkv.rope(scaling=qkv.scaling.dynamic_ntk(2.0, 6)))
    cache = qkv.cache.Dense()
    spec(Q, K, V, cache=cache)
    spec(Q[:, :, :2], K[:, :, :2], V[:, :, :2], cache=cache)
    with pytest.raises(qkv.CacheError, match="whose frequencies have changed with the length"):
        spec(Q[:, :, :1], K[:, :, :1], V[:, :, :1], cache=cache)
    assert cache.length == 6
