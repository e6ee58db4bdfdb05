"""Steps with a cache that are known: the same numbers as steps that are not, whoever shares the spec."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import qkv
from qkv.run import cached, steps

PATTERN = "b (h g) i d, b h j d, b h j e -> b (h g) i e"


def paged(bits: int | None = None) -> qkv.cache.Paged:
    return qkv.cache.Paged(qkv.cache.PagePool(page_size=4, bits=bits))


def tokens(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 4, count, 8, generator=made)
    k, v = (torch.randn(1, 2, count, 8, generator=made) for _ in range(2))
    return q, k, v


def written(spec: qkv.Spec, cache: qkv.cache.Cache, count: int, seed: int) -> torch.Tensor:
    """Some tokens at once, then one by one."""
    q, k, v = tokens(count, seed)
    cuts = [0, count // 2, *range(count // 2 + 1, count + 1)]
    with torch.inference_mode():
        made = [spec(*(x[:, :, a:b].contiguous() for x in (q, k, v)), cache=cache) for a, b in pairwise(cuts)]
    return torch.cat(made, dim=2)


MAKES: dict[str, Callable[[], qkv.cache.Cache]] = {
    "dense": qkv.cache.Dense,
    "ring": lambda: qkv.cache.Ring(6),
    "codes": lambda: qkv.cache.Quantized(8, recent=0),
    "codes and the newest": lambda: qkv.cache.Quantized(4, recent=3),
    "pages": lambda: qkv.cache.Paged(qkv.cache.PagePool(page_size=16)),
    "pages of codes": lambda: qkv.cache.Paged(qkv.cache.PagePool(page_size=16, bits=8)),
}


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The specs of the calls that took the general way."""
    taken: list[object] = []
    plain: Any = cached._general

    def counted(spec: qkv.Spec, *given: object) -> object:
        taken.append(spec)
        return plain(spec, *given)

    monkeypatch.setattr(cached, "_general", counted)
    return taken


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("lse", [False, True])
def test_a_step_is_known_and_is_the_same_step(name: str, lse: bool, general: list[object]) -> None:
    """Beside each step one of a spec that knows none, on a copy of the cache."""
    parts = {"keep": qkv.causal() & qkv.window(6) & qkv.keep(lambda i, j: (i + j) % 3 != 0)}
    spec, cache = qkv.Spec(PATTERN, **parts), MAKES[name]()
    q, k, v = tokens(24, 0)
    ways = 0
    with qkv.strategy("cpu"), torch.inference_mode():
        for n in range(24):
            step = [x[:, :, n : n + 1].contiguous() for x in (q, k, v)]
            twin, other = cache.fork(), qkv.Spec(PATTERN, **parts)
            before = len(general)
            found = spec.run(*step, cache=cache, want="lse") if lse else spec(*step, cache=cache)
            ways += len(general) - before
            made = other.run(*step, cache=twin, want="lse")
            if lse:
                assert torch.equal(found.lse, made.lse)
                assert found.plan.strategy == "cpu"
                assert found.lse.shape == (1, 4, 1)
                found = found.output
            assert torch.equal(found, made.output)
    assert ways <= 6, "steps were planned that were known"


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_with_a_sink_makes_nothing_anew(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink has the heads' number for its size, which no step changes."""
    sink = torch.randn(4, generator=torch.Generator().manual_seed(1))
    keep = qkv.causal() & qkv.window(6) if masked or name == "ring" else None
    spec = qkv.Spec(PATTERN, keep=keep, weights=qkv.softmax(sink=sink))
    asked, plain = list[object](), steps.check_claims
    monkeypatch.setattr(steps, "check_claims", lambda *given: asked.append(given) or plain(*given))
    first, other = MAKES[name](), MAKES[name]()
    with qkv.strategy("cpu"):
        made = written(spec, first, 30, 0)
        assert len(asked) <= 3, "sizes were held against a sink's at each step"
    with qkv.strategy("chunked"):
        torch.testing.assert_close(made, written(spec, other, 30, 0), rtol=2e-5, atol=2e-5)


def test_a_mask_with_a_size_for_the_keys_is_held_against_each_step() -> None:
    there = torch.ones(1, 9, dtype=torch.bool)
    spec, cache = qkv.Spec(PATTERN, keep=qkv.padding(there, "b j")), qkv.cache.Dense()
    q, k, v = tokens(10, 0)
    with torch.inference_mode():
        for n in range(8):
            cache.append(k[:, :, n : n + 1], v[:, :, n : n + 1])
        for _ in range(2):
            with pytest.raises(qkv.SizeMismatch, match="j=9"):
                spec(q[:, :, :1], cache=cache)
        cache.append(k[:, :, 8:9], v[:, :, 8:9])
        assert torch.equal(spec(q[:, :, :1], cache=cache), spec(q[:, :, :1], cache=cache))
        with pytest.raises(qkv.SizeMismatch, match="j=10"):
            spec(q[:, :, 9:], k[:, :, 9:], v[:, :, 9:], cache=cache)
        assert cache.length == 9


def test_sequences_of_different_lengths_take_the_general_way(general: list[object]) -> None:
    spec, cache = qkv.Spec(PATTERN, keep=qkv.causal()), qkv.cache.Paged(qkv.cache.PagePool(page_size=4))
    q, k, v = (torch.cat([x, x.flip(2)]) for x in tokens(6, 3))
    with qkv.strategy("cpu"), torch.inference_mode():
        for n in range(3):
            spec(*(x[:, :, n : n + 1].contiguous() for x in (q, k, v)), cache=cache)
        cache.truncate([1, 3])
        before = len(general)
        found = spec(*(x[:, :, 3:4].contiguous() for x in (q, k, v)), cache=cache)
        assert len(general) > before
        alone = qkv.cache.Dense()
        spec(*(x[:1, :, :1].contiguous() for x in (q, k, v)), cache=alone)
        expected = spec(*(x[:1, :, 3:4].contiguous() for x in (q, k, v)), cache=alone)
    torch.testing.assert_close(found[:1], expected)


def test_a_copied_page_is_read_where_it_is_now() -> None:
    """A fork appends to a shared page, which is copied: the table changes, and its shape does not."""
    spec = qkv.Spec(PATTERN, keep=qkv.causal())
    cache = MAKES["pages"]()
    q, k, v = tokens(12, 4)
    steps_of = [[x[:, :, n : n + 1].contiguous() for x in (q, k, v)] for n in range(12)]
    with qkv.strategy("cpu"), torch.inference_mode():
        for n in range(8):
            spec(*steps_of[n], cache=cache)
        twin = cache.fork()
        spec(*steps_of[9], cache=cache)
        found = spec(*steps_of[10], cache=twin)
        alone = qkv.cache.Dense()
        for n in range(8):
            spec(*steps_of[n], cache=alone)
        torch.testing.assert_close(found, spec(*steps_of[10], cache=alone))


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_step_in_the_middle_of_another_one_changes_nothing(
    make: Callable[[], qkv.cache.Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two threads that share a spec. The mask goes by position: with another length it keeps other keys."""
    between, busy, plain = tokens(1, 2), [True], steps.maker

    def maker(*like: Any) -> Callable[[], torch.Tensor]:
        new = plain(*like)

        def meanwhile() -> torch.Tensor:
            if not busy:  # once, and not for the step that is made here
                busy.append(True)
                spec(*between, cache=other)
                busy.clear()
            return new()

        return meanwhile

    monkeypatch.setattr(steps, "maker", maker)
    spec = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(6) & qkv.keep(lambda i, j: (i + j) % 3 != 0))
    alone = written(spec, make(), 20, 0)
    other = make()
    written(spec, other, 18, 1)  # of as many slots
    busy.clear()
    assert torch.equal(written(spec, make(), 20, 0), alone)
    assert 18 < other.length <= 32


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_known_step_is_not_taken_where_a_forward_derivative_is() -> None:
    spec, cache = qkv.Spec(PATTERN, keep=qkv.causal()), qkv.cache.Dense()
    written(spec, cache, 8, 0)
    q, _, _ = tokens(1, 1)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(qkv.SpecError, match="transform"):
            spec(dual, cache=cache)


def story(spec: qkv.Spec, bits: int | None, batch: int) -> list[torch.Tensor]:
    """Paged sequences that grow over many pages, fork in the middle of one, go on apart and are cut."""
    made = torch.Generator().manual_seed(3)
    first = paged(bits)
    found: list[torch.Tensor] = []

    def step(cache: qkv.cache.Paged, count: int = 1) -> None:
        q = torch.randn(batch, 4, count, 8, generator=made)
        k, v = (torch.randn(batch, 2, count, 8, generator=made) for _ in range(2))
        with torch.inference_mode():
            found.append(spec(q, k, v, cache=cache))
            found.append(spec(q[:, :, -1:], cache=cache))

    step(first, 9)
    for _ in range(29):
        step(first)
    twin = first.fork()
    for _ in range(7):
        step(twin)
        step(first)
    twin.truncate(33)
    for _ in range(3):
        step(twin)
    first.reorder(list(reversed(range(batch))))
    step(first)
    return found


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_known_steps_on_pages_answer_what_others_answer(
    bits: int | None, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(30))
    taken = list[bool]()
    plain = steps.answer

    def counted(*given: Any, lse: bool) -> Any:
        found = plain(*given, lse=lse)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(steps, "answer", counted)
    quick = story(spec, bits, batch)
    assert sum(taken) > 0.7 * len(taken)
    monkeypatch.setattr(steps, "answer", lambda *_, **__: None)
    monkeypatch.setattr(steps, "may_append", lambda *_: False)
    general = story(qkv.Spec(PATTERN, keep=qkv.causal() & qkv.window(30)), bits, batch)
    assert all(torch.equal(a, b) for a, b in zip(quick, general, strict=True))


def test_sequences_of_several_lengths_are_left_to_the_general_way() -> None:
    """Their keys behind each end are masked; a step that is known has no such mask."""
    spec = qkv.Spec(PATTERN, keep=qkv.causal())
    together = paged()
    whole = torch.cat([torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    short = paged()
    with torch.inference_mode():
        for _ in range(2):  # a step of this layout is known
            spec(whole[:, :, :1], whole[:, :2, :1], whole[:, 2:, :1], cache=short)
        spec(whole, whole[:, :2], whole[:, 2:], cache=together, lengths=[6, 3])
        found = spec(whole[:, :, -1:], whole[:, :2, -1:], whole[:, 2:, -1:], cache=together)
        alone = paged()
        spec(whole[1:, :, :3], whole[1:, :2, :3], whole[1:, 2:, :3], cache=alone)
        expected = spec(whole[1:, :, -1:], whole[1:, :2, -1:], whole[1:, 2:, -1:], cache=alone)
    assert torch.allclose(found[1:], expected, atol=1e-5)


def test_a_known_step_is_not_appended_to_keys_that_were_turned() -> None:
    spec, turning = (qkv.Spec(PATTERN, keep=qkv.causal(), position=x) for x in (None, qkv.rope(8)))
    written(spec, qkv.cache.Dense(), 6, 0)
    cache = qkv.cache.Dense()
    q, k, v = tokens(5, 1)
    turning(q, k, v, cache=cache)
    with pytest.raises(qkv.CacheError, match="One cache serves one rotation"):
        spec(q[:, :, :1], k[:, :, :1], v[:, :, :1], cache=cache)
    assert cache.length == 5


FAR = {
    "a window": (qkv.causal() & qkv.window(6), True),
    "a window said in differences": (qkv.keep(lambda i, j: (j <= i) & (-(j - i) < 6)), True),
    "the larger of two differences": (qkv.causal() & qkv.keep(lambda i, j: torch.maximum(i - j, j - i) <= 5), True),
    "positions themselves": (qkv.causal() & qkv.window(6) & qkv.keep(lambda i, j: (i + j) % 3 != 0), False),
    "indices": (qkv.causal() & qkv.window(6) & qkv.keep(lambda i, j: qkv.index("j") >= 0), False),
}


@pytest.mark.parametrize("name", FAR)
def test_a_mask_of_differences_is_asked_for_dropped_keys_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, once = FAR[name]
    asked: list[object] = []
    check = steps.check_dropped

    def counted(*given: Any) -> None:
        asked.append(given)
        check(*given)

    monkeypatch.setattr(steps, "check_dropped", counted)
    with qkv.strategy("cpu"):
        found = written(qkv.Spec(PATTERN, keep=keep), qkv.cache.Ring(6), 40, 0)
        assert (len(asked) == 1) == once
        torch.testing.assert_close(found, written(qkv.Spec(PATTERN, keep=keep), qkv.cache.Dense(), 40, 0))


def test_a_mask_of_differences_that_asks_for_keys_long_gone_is_refused_when_it_does() -> None:
    spec = qkv.Spec(PATTERN, keep=qkv.keep(lambda i, j: (j <= i) & ((i - j < 6) | (i - j >= 12))))
    cache = qkv.cache.Ring(6)
    q, k, v = tokens(14, 0)
    with qkv.strategy("cpu"), torch.inference_mode():
        for n in range(12):
            spec(*(x[:, :, n : n + 1].contiguous() for x in (q, k, v)), cache=cache)
        with pytest.raises(qkv.CacheError, match="dropped"):
            spec(*(x[:, :, 12:13].contiguous() for x in (q, k, v)), cache=cache)
    assert cache.length == 12
