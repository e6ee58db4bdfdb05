"""A call with a cache: the same for tokens at once, in parts or one by one; and nothing is changed by a failure."""

from __future__ import annotations

import pytest
import torch

import qkv
from qkv.cache import memory
from qkv.plan import find
from tests.cache.kinds import EVERY, KINDS, PATTERN, PLAIN, RECENT, TURNED, Kind, prefill, tokens


def parts(kind: Kind, cache: qkv.cache.Cache, cuts: list[int], seed: int = 1) -> torch.Tensor:
    q, k, v = tokens(cuts[-1], seed)
    made = [
        kind.spec(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], cache=cache) for a, b in zip([0, *cuts], cuts, strict=False)
    ]
    return torch.cat(made, dim=2)


@pytest.mark.parametrize("strategy", ["reference", "chunked", "cpu", None])
@pytest.mark.parametrize("name", [n for n in KINDS if n != "recurrent"])
def test_parts_are_the_whole(name: str, strategy: str | None) -> None:
    kind = KINDS[name]
    if strategy == "cpu" and kind.bits is not None:
        with pytest.raises(qkv.Refused, match="met by float32 numbers, and q is float64"), qkv.strategy("cpu"):
            parts(kind, kind.make(), [12])
        return
    for cuts in ([12], [5, 12], list(range(1, 13)), [1, 2, 9, 10, 12]):
        if strategy is None:
            out = parts(kind, kind.make(), cuts)
        else:
            with qkv.strategy(strategy):
                out = parts(kind, kind.make(), cuts)
        torch.testing.assert_close(out, prefill(kind, *tokens(12, 1)), atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*(n for n in KINDS if n != "recurrent"), *RECENT])
def test_codes_and_small_floats_are_met_in_place(name: str, dtype: torch.dtype) -> None:
    """The compiled core on every storage, against the definition fed the same stored numbers."""
    kind = EVERY[name]
    for cuts in ([12], list(range(1, 13)), [1, 2, 9, 10, 12]):
        made = {}
        for strategy in ("cpu", "reference"):
            q, k, v = (x.to(dtype) for x in tokens(cuts[-1], 1))
            cache = kind.make()
            with qkv.strategy(strategy), torch.inference_mode():
                made[strategy] = torch.cat(
                    [
                        kind.spec(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], cache=cache)
                        for a, b in zip([0, *cuts], cuts, strict=False)
                    ],
                    dim=2,
                )
        # sums of 12 terms in float32, one rounding of the result
        unit = 2**-24 if dtype == torch.float32 else 2**-8
        torch.testing.assert_close(made["cpu"], made["reference"], atol=2**-18, rtol=2 * unit)


@pytest.mark.parametrize("name", [*KINDS, *RECENT])
def test_a_second_read_appends_nothing(name: str) -> None:
    kind = EVERY[name]
    cache = kind.make()
    q, k, v = tokens(7, 2)
    first = kind.spec(q, k, v, cache=cache)
    again = kind.spec(q[:, :, -1:], cache=cache)
    assert cache.length == 7
    torch.testing.assert_close(again, first[:, :, -1:], atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("weights", [qkv.differential(0.3), qkv.Spec(weights=qkv.linear()).weights])
def test_other_weights_read_a_dense_cache(weights: object) -> None:
    kind = Kind("dense", qkv.cache.Dense, qkv.Spec(PATTERN, keep=qkv.causal(), weights=weights))
    out = parts(kind, kind.make(), [4, 5, 9])
    torch.testing.assert_close(out, prefill(kind, *tokens(9, 1)), atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("name", ["int8", "ring", "paged"])
def test_two_maps_read_storage_in_place(name: str) -> None:
    keep = KINDS[name].spec.keep
    kind = Kind(name, KINDS[name].make, qkv.Spec(PATTERN, keep=keep, weights=qkv.differential(0.3)), KINDS[name].bits)
    out = parts(kind, kind.make(), [4, 5, 9])
    torch.testing.assert_close(out, prefill(kind, *tokens(9, 1)), atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_maps_read_codes_and_the_newest_in_place(bits: int, dtype: torch.dtype) -> None:
    """Features of both maps beside one another, in codes and in the rows beside them."""
    spec = qkv.Spec(PATTERN, keep=qkv.causal(), weights=qkv.differential(0.3))
    made = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, heads, 9, 64, generator=made).to(dtype) for heads in (4, 2, 2))
    found = {}
    for strategy in ("cpu", "reference"):
        cache = qkv.cache.Quantized(bits, recent=3)
        with qkv.strategy(strategy), torch.inference_mode():
            cuts = ((0, 5), (5, 6), (6, 9))
            found[strategy] = torch.cat([spec(*(x[:, :, a:b] for x in (q, k, v)), cache=cache) for a, b in cuts], 2)
    unit = 2**-24 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(found["cpu"], found["reference"], atol=2**-17, rtol=4 * unit)


def test_merged_axes_and_other_layouts_are_the_same_cache() -> None:
    spec = qkv.Spec("b i (h g) d, b j h d, b j h e -> b i (h g) e", keep=qkv.causal(), position=qkv.rope())
    q, k, v = (x.transpose(1, 2).contiguous() for x in tokens(6, 3))
    cache = qkv.cache.Dense()
    made = [spec(q[:, a:b], k[:, a:b], v[:, a:b], cache=cache) for a, b in ((0, 4), (4, 5), (5, 6))]
    want = prefill(KINDS["dense"], *tokens(6, 3)).transpose(1, 2)
    torch.testing.assert_close(torch.cat(made, 1), want, atol=1e-12, rtol=0.0)
    torch.testing.assert_close(spec(q[:, -1:], cache=cache), want[:, -1:], atol=1e-12, rtol=0.0)


def test_left_padding_by_positions_and_a_mask() -> None:
    q, k, v = tokens(6, 4)
    real = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    places = (real.long().cumsum(-1) - 1).clamp(min=0)
    cache = qkv.cache.Dense()
    for a, b in ((0, 4), (4, 5), (5, 6)):
        spec = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.padding(real[:, :b]), position=qkv.rope())
        said = {"i": (places[:, :b], "b i")} if a == 0 else None
        out = spec(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], cache=cache, positions=said)
    assert cache.positions.tolist() == places.tolist()
    alone = TURNED(q[:1, :, 2:], k[:1, :, 2:], v[:1, :, 2:])
    torch.testing.assert_close(out[:1], alone[:, :, -1:], atol=1e-12, rtol=0.0)
    torch.testing.assert_close(out[1:], TURNED(q[1:], k[1:], v[1:])[:, :, -1:], atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("name", ["dense", "int8", "paged", "ring"])
def test_a_draft_tree_is_appended_and_one_path_accepted(name: str) -> None:
    kind, cache = KINDS[name], KINDS[name].make()
    q, k, v = tokens(4, 5)
    kind.spec(q, k, v, cache=cache)
    tree = qkv.tree([-1, 0, 0])
    dq, dk, dv = tokens(3, 6)
    places = torch.tensor(tree.depths) + 4
    draft = qkv.Spec(PATTERN, keep=tree & kind.spec.keep, position=kind.spec.position)
    out = draft(dq, dk, dv, cache=cache, positions={"i": places})
    path = [0, 2]  # the root and its second child
    every = [torch.cat((x, y[:, :, path]), 2) for x, y in ((q, dq), (k, dk), (v, dv))]
    want = prefill(kind, *every)
    torch.testing.assert_close(out[:, :, path], want[:, :, -2:], atol=1e-12, rtol=0.0)
    cache.truncate(4)
    again = kind.spec(dq[:, :, path], dk[:, :, path], dv[:, :, path], cache=cache)
    torch.testing.assert_close(again, want[:, :, -2:], atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("name", [*KINDS, *RECENT])
def test_beams_follow_their_parents(name: str) -> None:
    kind = EVERY[name]
    cache = kind.make()
    q, k, v = tokens(3, 7, batch=3)
    kind.spec(q, k, v, cache=cache)
    index = [2, 0, 2, 2]
    cache.reorder(index)
    nq, nk, nv = tokens(1, 8, batch=4)
    out = kind.spec(nq, nk, nv, cache=cache)
    want = prefill(kind, nq, torch.cat((k[index], nk), 2), torch.cat((v[index], nv), 2))
    torch.testing.assert_close(out, want, atol=1e-12, rtol=0.0)


def state(cache: qkv.cache.Cache) -> tuple[object, ...]:
    """All that can be seen of a cache."""
    _, held = cache.record()
    bits = {n: x.clone() for n, x in held.items()}
    return cache.length, cache.nbytes, cache.positions.tolist(), cache.seal, {n: x.tolist() for n, x in bits.items()}


@pytest.mark.parametrize("name", [*KINDS, *RECENT])
def test_a_failure_at_any_allocation_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = EVERY[name]
    real = memory.allocate
    failures = 0
    for held in (0, 4, 16):
        for count in (1, 3, 40):
            for which in range(8):
                cache = kind.make()
                if held:
                    kind.spec(*tokens(held, 9), cache=cache)
                before, calls = state(cache), 0

                def failing(*given: object, which: int = which, **named: object) -> torch.Tensor:
                    nonlocal calls
                    calls += 1
                    if calls > which:
                        raise MemoryError("no room")
                    return real(*given, **named)

                monkeypatch.setattr(memory, "allocate", failing)
                try:
                    kind.spec(*tokens(count, 10), cache=cache)
                except MemoryError:
                    failures += 1
                monkeypatch.setattr(memory, "allocate", real)
                if calls <= which:
                    break
                assert state(cache) == before
    assert failures > 0 or name in ("recurrent",), "no allocation was made to fail"


@pytest.mark.parametrize("name", list(KINDS))
def test_a_strategy_that_fails_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, cache = KINDS[name], KINDS[name].make()
    kind.spec(*tokens(6, 11), cache=cache)
    before = state(cache)
    used = cache.pool.num_used if isinstance(cache, qkv.cache.Paged) else 0
    for strategy in qkv.strategies():
        monkeypatch.setattr(type(find(strategy)), "run", _stops)
    for count in (1, 3, 9):
        with pytest.raises(KeyboardInterrupt):
            kind.spec(*tokens(count, 12), cache=cache)
        assert state(cache) == before
        assert used == (cache.pool.num_used if isinstance(cache, qkv.cache.Paged) else 0)


def _stops(*given: object) -> None:
    raise KeyboardInterrupt


def test_a_plan_appends_nothing_and_names_the_storage() -> None:
    q, k, v = tokens(4, 13)
    cache = qkv.cache.Quantized(8)
    plan = PLAIN.plan(q, k, v, cache=cache)
    assert cache.length == 0
    assert plan.strategy == "chunked"
    assert plan.refused["sdpa"].startswith("it reads tensors, and the cache is quantized;")
    assert (
        "it reads tensors, and the cache is paged and quantized"
        in (PLAIN.plan(q, k, v, cache=qkv.cache.Paged(qkv.cache.PagePool(bits=4))).refused["sdpa"])
    )
    with pytest.raises(qkv.Refused, match="the cache is ring"), qkv.strategy("sdpa"):
        PLAIN(q, k, v, cache=qkv.cache.Ring(8))


@pytest.mark.parametrize("name", ["int8", "int4", "ring", "paged", "paged4"])
def test_chunked_never_reads_a_cache_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from qkv.cache.stored import Stored

    kind = KINDS[name]
    make = (lambda: qkv.cache.Ring(3000)) if name == "ring" else kind.make
    spec = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(3000))
    q, k, v = tokens(4001, 14)
    cache = make()
    cache.append(k[:, :, :4000], v[:, :, :4000])
    longest, real = [0], Stored.part

    def part(self: Stored, first: int, last: int, within: tuple[int, int, int] | None = None) -> torch.Tensor:
        longest[0] = max(longest[0], last - first)
        return real(self, first, last, within)

    monkeypatch.setattr(Stored, "part", part)
    monkeypatch.setattr(Stored, "whole", _stops)
    monkeypatch.setattr("qkv.run.blocks.BLOCK_SCORES", 1 << 12)
    monkeypatch.setattr("qkv.run.chunked.LOOKED_AT", 512)
    with qkv.strategy("chunked"):
        out = spec(q[:, :, -1:], k[:, :, -1:], v[:, :, -1:], cache=cache)
    assert 0 < longest[0] <= 1024
    want = spec(q[:, :, -1:], kind.seen(k), kind.seen(v), align="end")
    torch.testing.assert_close(out, want, atol=1e-12, rtol=0.0)


def _free(cache: qkv.cache.Ring, slots: object) -> list[int]:
    used = {(cache.state.start + n) % slots.num_slots for n in range(cache.state.standing.count)}
    return [n for n in range(slots.num_slots) if n not in used]


def _unused(cache: qkv.cache.Paged) -> list[int]:
    return [n for n, count in enumerate(cache.pool.references) if count == 0]


@pytest.mark.parametrize("name", ["dense", "ring", "paged"])
@pytest.mark.parametrize("strategy", ["chunked", "cpu", "reference"])
def test_unused_bytes_are_never_read(name: str, strategy: str) -> None:
    kind, cache = KINDS[name], KINDS[name].make()
    q, k, v = tokens(9, 15)
    kind.spec(q[:, :, :8], k[:, :, :8], v[:, :, :8], cache=cache)
    poisoned = 0
    for slots in cache.pool.both() if name == "paged" else (cache.state.keys, cache.state.values):
        before = slots.data.isnan().sum()
        if name == "paged":
            slots.data[_unused(cache)] = torch.nan
            for row in cache.state.table:
                slots.data[row[-1], ..., 8 % cache.pool.page_size :, :] = torch.nan
        else:
            slots.data[..., range(8, 16) if name == "dense" else _free(cache, slots), :] = torch.nan
        poisoned += int(slots.data.isnan().sum() - before)
    assert poisoned > 0
    with qkv.strategy(strategy):
        out = kind.spec(q[:, :, 8:], k[:, :, 8:], v[:, :, 8:], cache=cache)
    torch.testing.assert_close(out, prefill(kind, q, k, v)[:, :, 8:], atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("name", ["dense", "ring", "int8", "paged"])
def test_a_dropped_key_that_holds_nan_touches_nothing(name: str) -> None:
    kind, cache = KINDS[name], KINDS[name].make()
    q, k, v = tokens(7, 16)
    k[0, :, 3], v[0, :, 3] = torch.nan, torch.inf
    real = torch.ones(2, 7, dtype=torch.bool)
    real[0, 3] = False
    keep = qkv.padding(real)
    spec = qkv.Spec(PATTERN, keep=kind.spec.keep & keep, position=kind.spec.position)
    out = spec(q, k, v, cache=cache)
    clean = [x.clone() for x in (k, v)]
    for x in clean:
        x[0, :, 3] = 0.0
    want = spec(q, kind.seen(clean[0]), kind.seen(clean[1]))
    torch.testing.assert_close(out, want, atol=1e-12, rtol=0.0)


def test_queries_alone_can_learn() -> None:
    q, k, v = tokens(5, 17)
    for cache in (qkv.cache.Dense(), qkv.cache.Quantized(8, recent=2), qkv.cache.Ring(9)):
        with torch.no_grad():
            cache.append(k, v)
        learner = q[:, :, -1:].clone().requires_grad_()
        spec = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(9))
        spec(learner, cache=cache).sum().backward()
        kind = KINDS["int8"] if isinstance(cache, qkv.cache.Quantized) else KINDS["dense"]
        first = k.shape[2] - 2
        other = q[:, :, -1:].clone().requires_grad_()
        spec(other, kind.seen(k, first), kind.seen(v, first), align="end").sum().backward()
        torch.testing.assert_close(learner.grad, other.grad, atol=1e-12, rtol=0.0)


def test_inference_mode_may_come_and_go() -> None:
    q, k, v = tokens(4, 18)
    cache = qkv.cache.Dense()
    with torch.inference_mode():
        PLAIN(q[:, :, :2], k[:, :, :2], v[:, :, :2], cache=cache)
    PLAIN(q[:, :, 2:3], k[:, :, 2:3], v[:, :, 2:3], cache=cache)
    with torch.inference_mode():
        out = PLAIN(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], cache=cache)
    torch.testing.assert_close(out, prefill(KINDS["int8"], q, k, v)[:, :, 3:] * 0 + out, atol=0.0, rtol=0.0)
    torch.testing.assert_close(out, PLAIN(q, k, v)[:, :, 3:], atol=1e-12, rtol=0.0)


def test_a_compiled_function_steps_out_of_its_graph() -> None:
    cache = qkv.cache.Dense()

    @torch.compile(backend="eager")
    def step(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return PLAIN(q, k, v, cache=cache) * 2.0

    q, k, v = tokens(3, 19)
    out = torch.cat([step(*(x[:, :, n : n + 1] for x in (q, k, v))) for n in range(3)], 2)
    assert cache.length == 3
    torch.testing.assert_close(out, 2.0 * PLAIN(q, k, v), atol=1e-12, rtol=0.0)


def test_memory_of_a_ring_is_constant() -> None:
    cache, sizes = qkv.cache.Ring(8), set[int]()
    spec = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(8))
    for n in range(200):
        spec(*tokens(1, n), cache=cache)
        sizes.add(cache.nbytes)
    assert len(sizes) == 1
    assert cache.positions.tolist() == list(range(192, 200))


def test_attention_takes_a_cache() -> None:
    q, k, v = tokens(4, 20)
    cache = qkv.cache.Dense()
    made = [
        qkv.attention(*(x[:, :, n : n + 1] for x in (q, k, v)), PATTERN, keep=qkv.causal(), cache=cache)
        for n in range(4)
    ]
    torch.testing.assert_close(torch.cat(made, 2), PLAIN(q, k, v), atol=1e-12, rtol=0.0)
    result = PLAIN.run(q[:, :, -1:], cache=cache, want=("lse", "argmax"))
    assert result.lse.shape == (2, 2, 1)
