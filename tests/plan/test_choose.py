"""Which strategy the planner takes, what it says of the others, and what a forced one may do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import qkv
from qkv.plan import Plan


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = (_drawn(n, 1, 2, 3, 4) for n in range(3))
NAN = K.clone()
NAN[0, 0, 1] = torch.nan
CAUSAL = qkv.Spec(keep=qkv.causal())
PLAIN = qkv.Spec()
CAPPED = qkv.Spec(score=qkv.softcap(3.0))
CLAMPED = qkv.Spec(weights=qkv.differential(0.5, renormalize="clamp"))
LINEAR = qkv.Spec(keep=qkv.causal(), weights=qkv.linear())


def _refused(name: str, call: Callable[[], object]) -> qkv.Refused:
    with pytest.raises(qkv.Refused) as caught, qkv.strategy(name):
        call()
    return caught.value


def test_the_plan_says_what_was_chosen_what_was_refused_and_the_cost() -> None:
    plan, pairs = CLAMPED.plan(Q, K, V), 2 * 3 * 3
    assert str(plan).split("\n") == [
        "strategy  chunked: the only one that runs this call",
        'refused   cpu: renormalize="clamp" needs both maps of a row at once; strategy "chunked" has them',
        "refused   sdpa: differential weights are not supported",
        "refused   linear: differential weights are not supported",
        "refused   absorbed: differential weights are not supported; it reads a latent cache, and k and v are tensors",
        "refused   reference: the definition, run when asked for",
        f"cost      {2 * pairs * 8} FLOPs, {4 * 24 * 4} bytes of tensors, {plan.scratch_bytes} bytes of scratch",
    ]
    assert isinstance(plan, Plan)
    assert not plan.needs_finite


@pytest.mark.parametrize(
    ("spec", "strategy"), [(PLAIN, "cpu"), (CAUSAL, "cpu"), (CAPPED, "cpu"), (CLAMPED, "chunked"), (LINEAR, "linear")]
)
def test_every_strategy_has_a_line(spec: qkv.Spec, strategy: str) -> None:
    plan = spec.plan(Q, K, V)
    assert plan.strategy == strategy
    assert {plan.strategy, *plan.refused} == set(qkv.strategies())
    assert "reference" in plan.refused


def test_slower_ones_are_told_by_how_much() -> None:
    plan = PLAIN.plan(Q, K, V)
    assert plan.reason == "the lowest estimated time"
    assert plan.refused["chunked"].startswith("estimated ")
    assert plan.refused["chunked"].endswith(" x the time of cpu")


def test_reference_is_taken_when_nothing_else_runs() -> None:
    plan = PLAIN.plan(Q, K, V, want="weights")
    assert (plan.strategy, plan.reason) == ("reference", "the only one that runs this call")
    assert plan.refused == {
        "chunked": "it cannot return weights",
        "cpu": "it cannot return weights",
        "sdpa": "it cannot return weights",
        "linear": "softmax weights are not supported; it cannot return weights",
        "absorbed": "it cannot return weights; it reads a latent cache, and k and v are tensors",
    }


def test_a_forced_strategy_is_asked_alone() -> None:
    with qkv.strategy("reference"):
        plan = CAUSAL.plan(Q, K, V)
    assert (plan.strategy, plan.reason, plan.refused) == ("reference", 'asked for by strategy("reference")', {})


def test_a_forced_strategy_tells_every_reason() -> None:
    spec = qkv.Spec(score=qkv.softcap(3.0), weights=qkv.softmax(sink=1.0))
    error = _refused("sdpa", lambda: spec.run(Q, K, V, want="lse", dropout=0.1))
    reasons = [
        "score term softcap(3) is not supported",
        "a sink is not supported",
        "it cannot return lse",
        "dropout is not supported",
    ]
    assert str(error).split("\n") == [
        'strategy "sdpa" cannot run this spec.',
        *(f"    {reason}" for reason in reasons),
        '  Use strategy "chunked", or leave it to the planner.',
    ]
    assert error.strategy == "sdpa"
    assert error.reasons == tuple(reasons)


def test_where_only_the_definition_runs_it_is_advised() -> None:
    error = _refused("chunked", lambda: PLAIN.run(Q, K, V, want="weights"))
    assert str(error).split("\n") == [
        'strategy "chunked" cannot run this spec.',
        "    it cannot return weights",
        '  Use strategy "reference", or change what the reasons name.',
    ]


REFUSED: dict[str, tuple[str, qkv.Spec, dict[str, object], str]] = {
    "softmax": ("linear", PLAIN, {}, "softmax weights are not supported"),
    "no score": ("sdpa", CAPPED, {}, "score term softcap(3) is not supported"),
    "window": ("sdpa", qkv.Spec(keep=qkv.window(2)), {}, "keep=window(2) would need a mask of all pairs in memory"),
    "linear": ("sdpa", LINEAR, {}, "linear weights are not supported"),
    "dropout": ("linear", LINEAR, {"dropout": 0.5}, "dropout is not supported"),
    "place": (
        "sdpa",
        CAUSAL,
        {"positions": {"i": 0}},
        "is_causal aligns at the first key; queries and keys differ in number or have positions of their own",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_planning_and_running_refuse_alike(case: str) -> None:
    name, spec, options, reason = REFUSED[case]
    assert _refused(name, lambda: spec.plan(Q, K, V, **options)).reasons == (reason,)
    assert _refused(name, lambda: spec(Q, K, V, **options)).reasons == (reason,)
    assert spec.plan(Q, K, V, **options).strategy != name


@pytest.mark.parametrize("name", qkv.strategies())
@pytest.mark.parametrize("spec", [PLAIN, CAUSAL, CAPPED, LINEAR], ids=["plain", "causal", "capped", "linear"])
def test_forced_ones_run_or_raise_and_never_fall_back(spec: qkv.Spec, name: str) -> None:
    refused = spec.plan(Q, K, V).refused.get(name, "")
    with qkv.strategy(name):
        if refused and not refused.startswith(("estimated", "the definition")):
            with pytest.raises(qkv.Refused):
                spec(Q, K, V)
        else:
            assert spec.run(Q, K, V).plan.strategy == name


def test_unknown() -> None:
    with pytest.raises(qkv.SpecError) as caught, qkv.strategy("fast"):
        pass
    assert str(caught.value).split("\n") == [
        'strategy "fast" is not known.',
        "  Known: reference, chunked, cpu, sdpa, linear, absorbed.",
    ]


def test_blocks_nest_and_end_even_by_an_error() -> None:
    def taken() -> str:
        return CAUSAL.plan(Q, K, V).strategy

    with qkv.strategy("reference"):
        with qkv.strategy("chunked"):
            assert taken() == "chunked"
        with pytest.raises(KeyError), qkv.strategy("chunked"):
            raise KeyError
        assert taken() == "reference"
    assert taken() == "cpu"


def test_a_block_can_be_entered_again_and_decorates_functions() -> None:
    def taken() -> str:
        return CAUSAL.plan(Q, K, V).strategy

    block = qkv.strategy("reference")
    with block, qkv.strategy("chunked"), block:
        assert taken() == "reference"
    assert taken() == "cpu"

    @qkv.strategy("chunked")
    def deep(more: int) -> list[str]:
        return [taken(), *(deep(more - 1) if more else [])]

    assert deep(2) == ["chunked"] * 3
    assert taken() == "cpu"


def test_threads_have_their_own() -> None:
    names = ("reference", "chunked", "sdpa", None)
    seen: dict[str | None, str] = {}
    together = threading.Barrier(len(names))

    def work(name: str | None) -> None:
        if name is None:
            together.wait(10)
            seen[name] = CAUSAL.run(Q, K, V).plan.strategy
            return
        with qkv.strategy(name):
            together.wait(10)
            seen[name] = CAUSAL.run(Q, K, V).plan.strategy

    with qkv.strategy("chunked"):  # a thread does not take it over
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {"reference": "reference", "chunked": "chunked", "sdpa": "sdpa", None: "cpu"}


def test_async_tasks_have_their_own() -> None:
    async def work(name: str) -> str:
        with qkv.strategy(name):
            await asyncio.sleep(0)
            return CAUSAL.run(Q, K, V).plan.strategy

    async def both() -> list[str]:
        return await asyncio.gather(work("reference"), work("chunked"))

    assert asyncio.run(both()) == ["reference", "chunked"]
