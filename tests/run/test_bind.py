"""A call bound to tensors: devices, types, what captured tensors claim, and sizes of zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import qkv


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = _drawn(0, 2, 4, 3, 4), _drawn(1, 2, 2, 5, 4), _drawn(2, 2, 2, 5, 6)
GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
ELSEWHERE = torch.zeros(4, device="meta")
STRATEGIES = ("reference", "chunked", "linear")


@pytest.mark.parametrize("number", range(3))
def test_the_meta_device(number: int) -> None:
    operands = [Q, K, V]
    operands[number] = operands[number].to("meta")
    spec = qkv.Spec(GROUPED)
    for call in (spec, spec.run, spec.plan):
        with pytest.raises(qkv.DeviceError, match=f"^{'qkv'[number]} is on the meta device, which holds no values"):
            call(*operands)


CAPTURED: dict[str, tuple[str, qkv.Spec]] = {
    "sink": ("sink", qkv.Spec(GROUPED, weights=qkv.softmax(sink=ELSEWHERE))),
    "lambda": ("lam", qkv.Spec(GROUPED, weights=qkv.differential(ELSEWHERE))),
    "decay": ("decay", qkv.Spec(GROUPED, keep=qkv.causal(), weights=qkv.linear(decay=ELSEWHERE))),
    "slopes": ("slopes", qkv.Spec(GROUPED, score=qkv.alibi(ELSEWHERE))),
    "mask": ("mask", qkv.Spec(GROUPED, keep=qkv.padding(torch.ones(2, 5, device="meta").bool(), "b j"))),
    "bias": ("bias", qkv.Spec(GROUPED, score=qkv.bias(torch.zeros(3, 5, device="meta"), "i j"))),
    "key table": ("key_table", qkv.Spec(GROUPED, score=qkv.shaw(torch.zeros(3, 4, device="meta")))),
}


@pytest.mark.parametrize("case", CAPTURED)
def test_captured_tensors_on_another_device(case: str) -> None:
    label, spec = CAPTURED[case]
    with pytest.raises(qkv.DeviceError) as caught:
        spec(Q, K, V, align="end")
    assert str(caught.value).split("\n") == [
        f"{label} is on meta, q on cpu.",
        "  Move it: tensor.to(q.device), then make the term again.",
    ]


def test_types() -> None:
    spec = qkv.Spec(GROUPED)
    for number, name in enumerate("qkv"):
        for other, headline in (
            (None, f"{name} is NoneType, not a torch tensor."),
            (np.zeros((2, 2, 5, 4), np.float32), f"{name} is ndarray, not a torch tensor."),
            (torch.zeros(2, 2, 5, 4).int(), f"{name} is torch.int32; attention is computed on "),
            (torch.zeros(2, 2, 5, 4).bool(), f"{name} is torch.bool; attention is computed on "),
        ):
            operands = [Q, K, V]
            operands[number] = other
            with pytest.raises(qkv.DtypeError) as caught:
                spec(*operands)
            assert str(caught.value).startswith(headline)
    with pytest.raises(qkv.DtypeError, match=r"^v is torch\.float16 and q is torch\.float32\."):
        spec(Q, K, V.half())


CLAIMS: dict[str, tuple[qkv.Spec, str, str]] = {
    "sink": (qkv.Spec(GROUPED, weights=qkv.softmax(sink=torch.zeros(3))), "(h g)=4", "softmax: (h g)=3"),
    "merged": (qkv.Spec(GROUPED, score=qkv.bias(torch.zeros(2, 5), "(h g) j")), "(h g)=4", "bias: (h g)=2"),
    "one head": (qkv.Spec(GROUPED, score=qkv.bias(torch.zeros(1, 5), "h j")), "h=2", "bias: h=1"),
    "keys": (qkv.Spec(GROUPED, keep=qkv.padding(torch.ones(2, 3).bool(), "b j")), "j=5", "padding: j=3"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_captured_tensors_claim_sizes(case: str) -> None:
    spec, call, claim = CLAIMS[case]
    with pytest.raises(qkv.SizeMismatch) as caught:
        spec(Q, K, V, align="end")
    lines = [line.strip() for line in str(caught.value).split("\n")]
    assert lines[0] == f'coordinate "{call.split("=")[0]}" has two sizes.'
    assert " ".join(lines[1].split()) == f"call: {call}"
    assert " ".join(lines[2].split()).startswith(f"{claim} (axis ")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("keep", (None, qkv.causal()), ids=("full", "causal"))
def test_sizes_of_zero(strategy: str, keep: qkv.terms.keep.Keep | None) -> None:
    spec = qkv.Spec(GROUPED, keep=keep, weights=qkv.linear() if strategy == "linear" else None)
    q = Q.repeat(1, 1, 2, 1)[:, :, :5]
    same = strategy == "linear" and keep is not None  # it runs queries and keys of one length
    cases = {
        "batch": (q[:0], K[:0], V[:0]),
        "heads": (q[:, :0], K[:, :0], V[:, :0]),
        "group": (q[:, :0], K, V),
        "value": (q, K, V[..., :0]),
        **({} if same else {"queries": (q[:, :, :0], K, V), "keys": (q, K[:, :, :0], V[:, :, :0])}),
    }
    for name, operands in cases.items():
        operands = [x.clone().requires_grad_() for x in operands]
        with qkv.strategy(strategy):
            out = spec(*operands, align="end", sizes={"g": 0 if name == "group" else 2})
        assert out.shape == (*operands[0].shape[:-1], operands[2].shape[-1]), name
        assert out.eq(0).all(), name
        for x in torch.autograd.grad(out.sum(), operands):
            assert x.eq(0).all(), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_neither_queries_nor_keys(strategy: str) -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=qkv.linear() if strategy == "linear" else None)
    with qkv.strategy(strategy):
        out = spec(Q[:, :, :0], K[:, :, :0], V[:, :, :0])
    assert out.shape == (2, 4, 0, 6)


def test_heads_of_size_zero_leave_their_group_open() -> None:
    with pytest.raises(qkv.SizeMismatch, match=r'^"g" cannot be solved from \(h g\)=0'):
        qkv.Spec(GROUPED)(Q[:, :0], K[:, :0], V[:, :0])


def test_statistics_without_keys() -> None:
    found = qkv.Spec(GROUPED).run(Q, K[:, :, :0], V[:, :, :0], want=("lse", "max_logit", "entropy", "argmax"))
    assert found.lse.eq(-torch.inf).all()
    assert found.stats["max_logit"].eq(-torch.inf).all()
    assert found.stats["entropy"].eq(0).all()
    assert found.stats["argmax"].eq(-1).all()


def test_a_feature_of_size_zero() -> None:
    for call in (qkv.Spec(GROUPED), qkv.Spec(GROUPED, scale=1.0), qkv.Spec(GROUPED, weights=qkv.linear())):
        with pytest.raises(qkv.ShapeError, match=r'^feature coordinate "d" has size 0'):
            call(Q[..., :0], K[..., :0], V)
