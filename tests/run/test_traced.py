"""Calls inside torch.compile and torch.export: one operator, the same numbers and gradients, words that are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv
from qkv.run import traced
from qkv.run.traced import call_of

Q, K, V = (torch.randn(1, 2, 8, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
SPEC = qkv.Spec(keep=qkv.causal() & qkv.window(4), score=qkv.softcap(5.0))
KEEP = qkv.causal() & qkv.window(3)
CAP = qkv.softcap(3.0)
PLACES = torch.tensor([3, 5])
CALLS: dict[str, Callable[..., Any]] = {
    "a spec": SPEC,
    "attention with a mask made inside": lambda q, k, v: qkv.attention(q, k, v, keep=qkv.causal()),
    "attention with parts made outside": lambda q, k, v: qkv.attention(q, k, v, keep=KEEP, score=CAP, scale=0.3),
    "lse": lambda q, k, v: SPEC.run(q, k, v, want=("lse",)).lse,
    "a statistic": lambda q, k, v: SPEC.run(q, k, v, want=("argmax", "entropy")).stats["entropy"],
    "a place": lambda q, k, v: SPEC(q[:, :, :2], k, v, positions={"i": 6}),
    "places": lambda q, k, v: SPEC(q[:, :, :2], k, v, positions={"i": PLACES}),
    "aligned": lambda q, k, v: SPEC(q[:, :, :2], k, v, align="end"),
    "dropout": lambda q, k, v: SPEC(q, k, v, dropout=0.5, seed=3),
    "another strategy": qkv.Spec(weights=qkv.linear()),
    "two maps": lambda q, k, v: MAPS.run(q, k, v, want="lse").lse,
}
MAPS = qkv.Spec(weights=qkv.differential(0.5))


@pytest.fixture(autouse=True)
def _anew() -> None:
    torch.compiler.reset()


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_is_the_call(name: str) -> None:
    found = _compiled(lambda q, k, v: CALLS[name](q, k, v) * 2)(Q, K, V)
    torch.testing.assert_close(found, CALLS[name](Q, K, V) * 2, rtol=0, atol=0)


def test_open_sizes() -> None:
    compiled = _compiled(SPEC.__call__, dynamic=True)
    for length in (8, 11, 5):
        q = torch.randn(1, 2, length, 16)
        assert compiled(q, q, q).equal(SPEC(q, q, q))


class Model(nn.Module):
    """A layer with a learned table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, 8, 8))
        self.linear = nn.Linear(16, 16)
        self.spec = qkv.Spec(keep=qkv.causal(), score=qkv.bias(self.table, "h i j"))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.spec(self.linear(q), k, v)


def test_gradients_of_inputs_and_of_what_is_learned() -> None:
    torch.manual_seed(0)
    model = Model()
    found: list[list[Tensor]] = []
    for function in (model, _compiled(model)):
        model.zero_grad()
        q, k, v = (x.clone().requires_grad_() for x in (Q, K, V))
        function(q, k, v).square().sum().backward()
        slopes = [q.grad, k.grad, v.grad, model.table.grad, model.linear.weight.grad]
        found.append([x.clone() for x in slopes if x is not None])
    assert len(found[0]) == len(found[1]) == 5
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)
    assert float(found[0][3].abs().max()) > 0


@pytest.mark.parametrize("strict", (False, True))
def test_an_exported_model(strict: bool) -> None:
    class Plain(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return SPEC(q, k, v) + 1

    exported = torch.export.export(Plain(), (Q, K, V), strict=strict)
    assert [str(node.target) for node in exported.graph.nodes if "qkv" in str(node.target)] == ["qkv.attention.default"]
    assert exported.module()(Q, K, V).equal(SPEC(Q, K, V) + 1)


def test_an_exported_model_with_open_sizes() -> None:
    class Plain(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return SPEC(q, k, v)

    length = torch.export.Dim("length", min=2, max=64)
    exported = torch.export.export(Plain(), (Q, K, V), dynamic_shapes=({2: length},) * 3)
    q = torch.randn(1, 2, 11, 16)
    assert exported.module()(q, q, q).equal(SPEC(q, q, q))


def test_the_operator_by_torchs_own_checks() -> None:
    _compiled(SPEC.__call__)(Q, K, V)
    words = [word for word, call in traced._calls.items() if call.spec is SPEC and not call.want]
    q, k, v = (x.clone().requires_grad_() for x in (Q, K, V))
    torch.library.opcheck(
        torch.ops.qkv.attention.default,
        (q, k, v, [], [], None, words[0]),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_what_is_learned_belongs_to_a_spec_made_outside() -> None:
    bias = qkv.bias(torch.zeros(8, 8, requires_grad=True), "i j")
    with pytest.raises(Exception, match="learns tensors, and is made inside a compiled function"):
        _compiled(lambda q, k, v: qkv.attention(q, k, v, score=bias))(Q, K, V)


def test_a_word_of_another_process() -> None:
    with pytest.raises(qkv.SpecError, match="a call of qkv that this process does not know"):
        call_of("Spec 9999999")


@pytest.mark.parametrize("strategy", ["reference", "chunked", "linear"])
def test_gradients_of_a_graph_are_not_rounded_to_16_bits(strategy: str) -> None:
    spec = qkv.Spec(weights=qkv.linear(), keep=qkv.causal())
    found: list[list[Tensor]] = []
    with qkv.strategy(strategy):
        for function in (spec, _compiled(spec.__call__)):
            tensors = [x.clone().requires_grad_() for x in (Q, K, V)]
            function(*tensors).square().sum().backward()
            found.append([x.grad for x in tensors if x.grad is not None])
    for compiled, eager in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
