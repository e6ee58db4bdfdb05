"""Strategy linear and the recurrent step beside the definition: decay, grouped heads, chunks, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qkv
from qkv.run.linear import CHUNK


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
LENGTH = 2 * CHUNK + 5
Q, K, V = _drawn(0, 2, 4, LENGTH, 4), _drawn(1, 2, 2, LENGTH, 4), _drawn(2, 2, 2, LENGTH, 3)
MASK = torch.arange(LENGTH) % 3 > 0
DECAYS = torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.float64)
WEIGHTS = {
    "elu1": qkv.linear(),
    "relu": qkv.linear("relu"),
    "exp": qkv.linear("exp"),
    "not normalized": qkv.linear("identity", normalize=False),
    "a function": qkv.linear(lambda x: torch.cat([x.relu(), x.square() + 1], -1)),
    "decay": qkv.linear(decay=0.9),
    "decay by head": qkv.linear(decay=DECAYS),
}


def _by(strategy: str, spec: qkv.Spec, *operands: Tensor, **options: object) -> Tensor:
    with qkv.strategy(strategy):
        return spec(*operands, **options)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_causal(weights: str) -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=WEIGHTS[weights])
    for length in (1, CHUNK - 1, CHUNK, CHUNK + 1, LENGTH):
        operands = [x[:, :, :length] for x in (Q, K, V)]
        torch.testing.assert_close(_by("linear", spec, *operands), _by("reference", spec, *operands))


@pytest.mark.parametrize("weights", [name for name in WEIGHTS if "decay" not in name])
@pytest.mark.parametrize("keep", (None, qkv.padding(MASK, "j")), ids=("full", "padding"))
def test_without_order(weights: str, keep: qkv.terms.keep.Keep | None) -> None:
    spec = qkv.Spec(GROUPED, keep=keep, weights=WEIGHTS[weights])
    few = Q[:, :, :7]
    torch.testing.assert_close(_by("linear", spec, few, K, V), _by("reference", spec, few, K, V))


@pytest.mark.parametrize(
    ("pattern", "keep", "shapes"),
    [
        ("i d, j d, j e -> i e", qkv.causal(), ("", "", "")),
        ("i h d, j d, j e -> h i e", qkv.causal(query="i"), ("h", "", "")),
        ("i b h d, j b d, j b e -> e i b h", qkv.causal(query="i"), ("bh", "b", "b")),
    ],
)
def test_other_layouts(pattern: str, keep: qkv.terms.keep.Keep, shapes: tuple[str, str, str]) -> None:
    sizes = {"b": 2, "h": 3}
    q, k, v = (_drawn(n, 9, *(sizes[c] for c in lead), 4) for n, lead in enumerate(shapes))
    head = {"head": "h"} if "h" in shapes[0] else {}
    decay = torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64) if head else 0.8
    spec = qkv.Spec(pattern, keep=keep, weights=qkv.linear(decay=decay, **head))
    torch.testing.assert_close(_by("linear", spec, q, k, v), _by("reference", spec, q, k, v))


def test_the_gradient_of_the_decay_and_of_the_operands() -> None:
    decay = DECAYS.clone().mul(0.9).requires_grad_()
    operands = [x[:, :, : CHUNK + 3].clone().requires_grad_() for x in (Q, K, V)]
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=qkv.linear(decay=decay))
    direction = _drawn(4, 2, 4, CHUNK + 3, 3)
    first, second = (
        torch.autograd.grad((_by(s, spec, *operands) * direction).sum(), [*operands, decay])
        for s in ("linear", "reference")
    )
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_steps_are_causal(weights: str) -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=WEIGHTS[weights])
    whole = _by("reference", spec, *(x[:, :, :6] for x in (Q, K, V)))
    state, seen = None, list[Tensor]()
    for n in range(6):
        out, state = qkv.linear_step(spec, *(x[:, :, n : n + 1] for x in (Q, K, V)), state)
        seen.append(out)
    torch.testing.assert_close(torch.cat(seen, 2), whole)


def test_a_step_leaves_the_state_it_was_given() -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=qkv.linear(decay=0.5))
    one = [x[:, :, :1] for x in (Q, K, V)]
    _, state = qkv.linear_step(spec, *one)
    before = state.memory.clone(), state.total.clone()
    first, _ = qkv.linear_step(spec, *one, state)
    again, _ = qkv.linear_step(spec, *one, state)
    assert first.equal(again)
    assert state.memory.equal(before[0])
    assert state.total.equal(before[1])


@pytest.mark.parametrize("keep", (qkv.window(3), qkv.causal() & qkv.window(3), ~qkv.causal()), ids=repr)
def test_a_step_needs_causal(keep: qkv.terms.keep.Keep) -> None:
    with pytest.raises(qkv.SpecError, match=r"^linear_step: the spec must have keep=qkv\.causal\(\) and no position"):
        qkv.linear_step(qkv.Spec(GROUPED, keep=keep, weights=qkv.linear()), Q[:, :, :1], K[:, :, :1], V[:, :, :1])


@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (2, 2), (1, 2), (2, 1)])
def test_a_step_takes_one_position(queries: int, keys: int) -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=qkv.linear())
    with pytest.raises(qkv.ShapeError, match=f"^linear_step: {queries} quer.* and {keys} key.* are given"):
        qkv.linear_step(spec, Q[:, :, :queries], K[:, :, :keys], V[:, :, :keys])


def test_a_state_of_other_sizes_is_refused() -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=qkv.linear())
    one = [x[:, :, :1] for x in (Q, K, V)]
    _, state = qkv.linear_step(spec, *(x[:1] for x in one))
    with pytest.raises(qkv.SizeMismatch, match=r"linear_step: state\.memory has the shape \(1, "):
        qkv.linear_step(spec, *one, state)


REFUSED = {
    "decay": (qkv.Spec(weights=qkv.linear(decay=0.9)), {}, "decay without causal depends on |i - j|, "),
    "window": (qkv.Spec(keep=qkv.window(2), weights=qkv.linear()), {}, "keep=window(2) is neither causal nor "),
    "place": (
        qkv.Spec(keep=qkv.causal(), weights=qkv.linear()),
        {"positions": {"i": 1}},
        "causal in chunks needs ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_strategy_says_why_not(case: str) -> None:
    spec, options, reason = REFUSED[case]
    with pytest.raises(qkv.Refused) as caught:
        _by("linear", spec, K, K, V, **options)
    assert len(caught.value.reasons) == 1
    assert caught.value.reasons[0].startswith(reason)
    short = [x[:, :, :9] for x in (K, K, V)]
    torch.testing.assert_close(spec(*short, **options), _by("reference", spec, *short, **options))
