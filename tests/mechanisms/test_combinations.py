"""Any sensible combination of terms works, the same by both strategies that run everything; a senseless one says why.

Every pair of parts is tried with every choice for each: position with score, score with keep, keep with weights, and so
on. Parts together are judged by the strategies' agreement; each part alone is judged by its formula elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import qkv

B, H, N, D = 2, 3, 11, 8


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


def there() -> Tensor:
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[0, :3] = False
    return mask


IDS = torch.arange(N) // 4
POSITION: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "rope": lambda: qkv.rope(100.0),
    "rope interleaved": lambda: qkv.rope(100.0, interleaved=True),
    "rope in part": lambda: qkv.rope(fraction=0.5),
    "rope yarn": lambda: qkv.rope(scaling=qkv.scaling.yarn(4.0, 8)),
}
SCORE: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "softcap": lambda: qkv.softcap(2.0),
    "alibi": qkv.alibi,
    "relative bias": lambda: qkv.relative_bias(numbers(16, H), max_distance=32),
    "shaw": lambda: qkv.shaw(numbers(5, D), numbers(5, 6)),
    "bias": lambda: qkv.bias(numbers(H, N, N), "h i j"),
    "custom": lambda: qkv.score(lambda score, h, i, j: qkv.where(i == j, score + 1.0, score) - 0.1 * h),
    "bias and softcap": lambda: (qkv.bias(numbers(H), "h"), qkv.softcap(2.0)),
}
KEEP: Mapping[str, Callable[[], Any]] = {
    "all": lambda: None,
    "causal": qkv.causal,
    "window": lambda: qkv.window(2, 1),
    "prefix": lambda: qkv.causal() | qkv.prefix(4),
    "sinks and window": lambda: qkv.causal() & (qkv.window(3) | qkv.first(2)),
    "documents": lambda: qkv.documents(IDS.expand(B, N)) & qkv.causal(),
    "padding": lambda: qkv.padding(there()),
    "dilated": lambda: qkv.dilated(2),
    "bigbird": lambda: qkv.bigbird(num_random=1),
    "none at all for some": lambda: qkv.keep(lambda i, j: (j <= i) & (i % 3 != 1)),
    "not": lambda: ~qkv.window(1),
}
WEIGHTS: Mapping[str, Callable[[], Any]] = {
    "softmax": lambda: None,
    "sink": lambda: qkv.softmax(sink=numbers(H)),
    "off by one": lambda: qkv.softmax(off_by_one=True),
    "sigmoid": lambda: qkv.sigmoid(bias=-2.0),
    "differential": lambda: qkv.differential(0.5),
    "differential, paper": lambda: qkv.differential(numbers(H), lambda_init=0.2),
    "differential, clamped": lambda: qkv.differential(0.5, renormalize="clamp"),
    "linear": qkv.linear,
    "linear, decaying": lambda: qkv.linear("exp", decay=0.9),
}
PARTS = {"position": POSITION, "score": SCORE, "keep": KEEP, "weights": WEIGHTS}


def pairs() -> list[dict[str, str]]:
    """Every choice of one part with every choice of another, the other two parts at their first choice."""
    plain = {part: next(iter(choices)) for part, choices in PARTS.items()}
    made: list[dict[str, str]] = []
    for one, other in itertools.combinations(PARTS, 2):
        for first, second in itertools.product(PARTS[one], PARTS[other]):
            chosen = {**plain, one: first, other: second}
            if chosen not in made:
                made.append(chosen)
    return made


def mixtures(count: int) -> list[dict[str, str]]:
    """Choices of all four parts at once, each choice about equally often."""
    steps = dict(zip(PARTS, (1, 3, 5, 7), strict=True))
    return [
        {part: list(choices)[n * steps[part] % len(choices)] for part, choices in PARTS.items()} for n in range(count)
    ]


def senseless(chosen: Mapping[str, str]) -> str | None:
    """Why the combination makes no sense, in the words of the error; None when it does."""
    if chosen["weights"].startswith("linear") and chosen["score"] != "none":
        return "linear weights have no score"
    if chosen["weights"].startswith("differential") and chosen["score"] == "shaw":
        return "shaw's tables have vectors of the whole feature"
    return None


def make(chosen: Mapping[str, str]) -> qkv.Spec:
    return qkv.Spec(**{part: PARTS[part][choice]() for part, choice in chosen.items()})


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    return numbers(B, H, N, D), numbers(B, H, N, D).flip(-1), numbers(B, H, N, 6)


def name(chosen: Mapping[str, str]) -> str:
    return " + ".join(chosen.values())


def run(spec: qkv.Spec, strategy: str) -> Tensor:
    with qkv.strategy(strategy):
        return spec(*tensors())


ALL = [*pairs(), *(m for m in mixtures(99) if m not in pairs())]
SENSIBLE = [chosen for chosen in ALL if senseless(chosen) is None]


@pytest.mark.parametrize("chosen", ALL, ids=name)
def test_a_combination_works_by_both_strategies_or_says_why_not(chosen: Mapping[str, str]) -> None:
    reason = senseless(chosen)
    if reason is not None:
        with pytest.raises(qkv.SpecError, match=reason):
            make(chosen)
        return
    spec = make(chosen)
    exact, chunked = run(spec, "reference"), run(spec, "chunked")
    assert exact.isfinite().all()
    assert exact.abs().max() > 0
    torch.testing.assert_close(chunked, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("chosen", SENSIBLE[::7], ids=name)
def test_its_gradients_agree_too(chosen: Mapping[str, str]) -> None:
    spec, gradients = make(chosen), {}
    for strategy in ("reference", "chunked"):
        inputs = tuple(x.clone().requires_grad_() for x in tensors())
        with qkv.strategy(strategy):
            out = spec(*inputs)
        gradients[strategy] = torch.autograd.grad(out, inputs, numbers(*out.shape))
    for mine, exact in zip(gradients["chunked"], gradients["reference"], strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-8, atol=1e-10)


def test_every_choice_changes_the_result() -> None:
    """No choice is a disguised default, so that agreement above means something."""
    plain = run(make({part: next(iter(choices)) for part, choices in PARTS.items()}), "reference")
    for part, choices in PARTS.items():
        for choice in list(choices)[1:]:
            chosen = {p: next(iter(c)) for p, c in PARTS.items()} | {part: choice}
            changed = run(make(chosen), "reference")
            assert not torch.allclose(changed, plain, atol=1e-4), name(chosen)


def test_there_are_as_many_pairs_as_there_should_be() -> None:
    sizes = [len(choices) for choices in PARTS.values()]
    expected = 1 + sum(n - 1 for n in sizes) + sum((a - 1) * (b - 1) for a, b in itertools.combinations(sizes, 2))
    assert len(pairs()) == expected
    assert sum(senseless(chosen) is not None for chosen in pairs()) == 2 * 7 + 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: qkv.Spec(weights=qkv.linear(), scale=0.5), "linear weights take no scale"),
        (lambda: qkv.Spec(score=[qkv.shaw(numbers(5, D)), qkv.shaw(numbers(5, D))]), "two shaw terms are given"),
        (lambda: qkv.softmax(sink=1.0, off_by_one=True), "sink and off_by_one are both given"),
        (lambda: qkv.differential(0.5, lambda_init=0.2, renormalize="clamp"), "are both given"),
        (lambda: qkv.linear("identity"), "weights of the identity map may sum to 0"),
        (lambda: qkv.Spec(keep=qkv.softcap(3.0)), r"^keep is softcap\(3\) \(SoftCap\), not a keep term"),
        (lambda: qkv.Spec(score=qkv.causal()), r"^score is causal\(\) \(Relative\), not a score term"),
        (lambda: qkv.Spec(scale=float("nan")), "scale=nan must be a finite number"),
    ],
)
def test_other_senseless_specs_say_why(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(qkv.SpecError, match=message):
        build()


def test_masks_that_need_positions_on_unequal_lengths_say_so() -> None:
    q, k, v = numbers(1, H, 3, D), numbers(1, H, N, D), numbers(1, H, N, 6)
    for spec in (qkv.Spec(keep=qkv.causal()), qkv.Spec(position=qkv.rope()), qkv.Spec(score=qkv.alibi())):
        with pytest.raises(qkv.PositionError):
            spec(q, k, v)
        assert spec(q, k, v, align="end").shape == (1, H, 3, 6)
