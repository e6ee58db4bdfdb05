"""Pages: shared until they are written, found by tokens and by content, and in any order."""

from __future__ import annotations

import pytest
import torch

import qkv
from qkv.cache import Paged, PagePool
from tests.cache.kinds import KINDS, PATTERN, PLAIN, TURNED, prefill, tokens

KIND = KINDS["paged"]


def test_a_fork_shares_pages_until_somebody_writes() -> None:
    pool = PagePool(4)
    cache = Paged(pool)
    q, k, v = tokens(6, 1)
    TURNED(q, k, v, cache=cache)
    assert pool.num_used == 4
    twin = cache.fork()
    assert pool.num_used == 4
    nq, nk, nv = tokens(1, 2)
    out = TURNED(nq, nk, nv, cache=twin)
    assert pool.num_used == 6  # the last page of both sequences was copied
    assert cache.length == 6
    torch.testing.assert_close(
        out, prefill(KIND, nq, torch.cat((k, nk), 2), torch.cat((v, nv), 2)), atol=1e-12, rtol=0.0
    )
    other = tokens(1, 3)
    out = TURNED(*other, cache=cache)
    assert pool.num_used == 6  # nobody else held the old page any more
    want = prefill(KIND, other[0], torch.cat((k, other[1]), 2), torch.cat((v, other[2]), 2))
    torch.testing.assert_close(out, want, atol=1e-12, rtol=0.0)
    del twin
    assert pool.num_used == 4


def shuffled(cache: Paged, seed: int) -> None:
    """Moves every page of the pool to another place."""
    pool = cache.pool
    order = torch.randperm(len(pool.references), generator=torch.Generator().manual_seed(seed))
    for slots in pool.both():
        slots.data.copy_(slots.data[order].clone())
        if slots.scale is not None:
            slots.scale.copy_(slots.scale[order].clone())
    back = {int(old): new for new, old in enumerate(order)}
    pool.references = [pool.references[int(old)] for old in order]
    pool.free = [back[page] for page in pool.free]
    table = tuple(tuple(back[page] for page in row) for row in cache.state.table)
    cache.state = type(cache.state)(table, cache.state.lengths, cache.state.begins, cache.state.standing)


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("strategy", ["chunked", "cpu", "reference"])
def test_bits_do_not_depend_on_where_pages_lie(bits: int | None, strategy: str) -> None:
    cache = Paged(PagePool(4, bits=bits))
    q, k, v = (x.float() for x in tokens(30, 4, batch=3))
    cache.append(k, v, lengths=[30, 17, 1])
    with qkv.strategy(strategy):
        first = PLAIN(q[:, :, -1:], cache=cache, invariant=True)
        for seed in range(3):
            shuffled(cache, seed)
            again = PLAIN(q[:, :, -1:], cache=cache, invariant=True)
            assert torch.equal(first, again)
    assert "it reads tensors" in PLAIN.plan(q[:, :, -1:], cache=cache, invariant=True).refused["sdpa"]


def test_sequences_of_different_lengths() -> None:
    cache = Paged(PagePool(3))
    q, k, v = tokens(7, 5, batch=3)
    counts = [7, 2, 4]
    out = TURNED(q, k, v, cache=cache, lengths=counts)
    for b, n in enumerate(counts):
        alone = TURNED(q[b : b + 1, :, :n], k[b : b + 1, :, :n], v[b : b + 1, :, :n])
        torch.testing.assert_close(out[b : b + 1, :, :n], alone, atol=1e-12, rtol=0.0)
    assert cache.lengths.tolist() == counts
    step = tokens(1, 6, batch=3)
    out = TURNED(*step, cache=cache)
    held = []
    for b, n in enumerate(counts):
        held.append([torch.cat((x[b : b + 1, :, :n], y[b : b + 1]), 2) for x, y in ((k, step[1]), (v, step[2]))])
        want = prefill(KIND, step[0][b : b + 1], *held[-1])
        torch.testing.assert_close(out[b : b + 1], want, atol=1e-12, rtol=0.0)
    again = TURNED(step[0], cache=cache)
    torch.testing.assert_close(again, out, atol=1e-12, rtol=0.0)
    with qkv.strategy("reference"):
        torch.testing.assert_close(TURNED(step[0], cache=cache), out, atol=1e-12, rtol=0.0)
    two = tokens(2, 7, batch=3)
    out = TURNED(*two, cache=cache, lengths=torch.tensor([2, 0, 1]))
    assert cache.lengths.tolist() == [10, 3, 6]
    want = prefill(KIND, two[0][:1], torch.cat((held[0][0], two[1][:1]), 2), torch.cat((held[0][1], two[2][:1]), 2))
    torch.testing.assert_close(out[:1], want, atol=1e-12, rtol=0.0)
    cache.truncate([4, 3, 5])
    assert cache.lengths.tolist() == [4, 3, 5]
    cache.reorder([2, 0])
    assert cache.lengths.tolist() == [5, 4]
    cache.truncate(4)
    assert cache.lengths.tolist() == [4, 4]


def test_caches_become_one_batch_and_pages_stay() -> None:
    pool = PagePool(4)
    parts, made = [tokens(n, n, batch=1) for n in (6, 3)], []
    for q, k, v in parts:
        made.append(Paged(pool))
        TURNED(q, k, v, cache=made[-1])
    used = pool.num_used
    both = Paged.together(made)
    assert pool.num_used == used
    assert both.lengths.tolist() == [6, 3]
    step = tokens(1, 9)
    out = TURNED(*step, cache=both)
    for b, (_, k, v) in enumerate(parts):
        want = prefill(
            KIND,
            step[0][b : b + 1],
            torch.cat((k, step[1][b : b + 1]), 2),
            torch.cat((v, step[2][b : b + 1]), 2),
        )
        torch.testing.assert_close(out[b : b + 1], want, atol=1e-12, rtol=0.0)


def test_a_prefix_is_found_by_its_tokens() -> None:
    pool = PagePool(4)
    first, ids = Paged(pool), list(range(100, 111))
    q, k, v = tokens(11, 8, batch=1)
    TURNED(q, k, v, cache=first)
    first.publish([ids])
    second = Paged(pool)
    assert second.reuse([[*ids[:9], 1, 2]]) == [8]
    assert second.length == 8
    assert pool.num_used == 3
    out = TURNED(q[:, :, 8:], k[:, :, 8:], v[:, :, 8:], cache=second)
    torch.testing.assert_close(out, TURNED(q, k, v)[:, :, 8:], atol=1e-12, rtol=0.0)
    assert Paged(pool).reuse([ids[:8]]) == [4]  # a query is always left
    assert Paged(pool).reuse([[0, *ids[1:]]]) == [0]
    first.release()
    assert Paged(pool).reuse([ids]) == [8]  # the second one holds them still
    second.release()
    assert Paged(pool).reuse([ids]) == [0]
    assert pool.num_used == 0
    assert not pool.by_tokens


def test_a_published_page_that_is_written_again_is_forgotten() -> None:
    pool = PagePool(4)
    cache = Paged(pool)
    _, k, v = tokens(8, 9, batch=1)
    cache.append(k, v)
    cache.publish([list(range(8))])
    cache.truncate(6)
    cache.append(k[:, :, :2], v[:, :, :2])
    assert Paged(pool).reuse([list(range(20))]) == [4]


@pytest.mark.parametrize("bits", [None, 4])
def test_equal_pages_are_shared_and_a_collision_is_not(bits: int | None) -> None:
    pool = PagePool(4, bits=bits)
    _, k, v = tokens(8, 10, batch=1)
    one, two = Paged(pool), Paged(pool)
    one.append(k, v)
    assert one.share() == 0
    two.append(torch.cat((k[:, :, :6], k[:, :, :2]), 2), v)
    assert two.share() == 1
    assert pool.num_used == 3
    assert one.share() == two.share() == 0
    clash = PagePool(4, bits=bits)
    clash.digest = lambda before, page: b""
    one, two = Paged(clash), Paged(clash)
    one.append(k, v)
    two.append(-k, v)
    assert one.share() == two.share() == 0
    assert clash.num_used == 4
    two.release()
    two.append(k, v)
    assert two.share() >= 1


def test_a_full_pool_says_so_and_nothing_changes() -> None:
    pool = PagePool(4, num_pages=4)
    cache = Paged(pool)
    _, k, v = tokens(8, 11)
    cache.append(k, v)
    with pytest.raises(qkv.CacheError) as error:
        PLAIN(*tokens(1, 12), cache=cache)
    assert str(error.value) == (
        "append: 2 pages are needed, and 0 of the pool's 4 are free.\n"
        "  Release or truncate sequences, or make a larger pool."
    )
    assert cache.length == 8
    assert pool.num_used == 4
    cache.truncate(4)
    assert pool.num_used == 2


def test_one_pool_serves_one_layer() -> None:
    pool = PagePool(4)
    _, k, v = tokens(3, 13)
    Paged(pool).append(k, v)
    keep = Paged(pool)
    for args, kind, text in (
        ((k[..., :2], v), qkv.SizeMismatch, "append: features of k have the size 2, and the pool's pages 4."),
        ((k, v[..., :2]), qkv.SizeMismatch, "append: features of v have the size 2, and the pool's pages 3."),
        ((k.float(), v.float()), qkv.DtypeError, "append: k is torch.float32, and the pool's pages torch.float64."),
    ):
        with pytest.raises(kind) as error:
            keep.append(*args)
        assert str(error.value).startswith(text)
    with pytest.raises(qkv.SizeMismatch, match="shared coordinates beside the batch"):
        keep.append(k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1))


def test_a_cascade_reads_the_prefix_once() -> None:
    q, k, v = tokens(9, 14, batch=1)
    many = tokens(2, 15, batch=4)
    spec = qkv.Spec("b h i d, h j d, h j e -> b h i e")
    own = qkv.Spec(PATTERN.replace("(h g)", "(h g)"))
    queries = many[0]
    prefix = qkv.Spec("b (h g) i d, h j d, h j e -> b (h g) i e").run(queries, k[0], v[0], want="lse")
    rest = own.run(queries, many[1], many[2], want="lse")
    merged = qkv.merge(prefix, rest)
    whole = own.run(
        queries,
        torch.cat((k.expand(4, -1, -1, -1), many[1]), 2),
        torch.cat((v.expand(4, -1, -1, -1), many[2]), 2),
        want="lse",
    )
    assert spec.pattern != own.pattern
    assert q.shape[0] == 1
    torch.testing.assert_close(merged.output, whole.output, atol=1e-12, rtol=0.0)
    torch.testing.assert_close(merged.lse, whole.lse, atol=1e-12, rtol=0.0)
