"""Strategy ``cpu`` beside the contract suite: what it refuses, layouts it writes, calls it knows again, its door."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import qkv
from qkv.core import cpu_targets, loaded, using_cpu_target
from qkv.run import quick

GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = _drawn(0, 2, 6, 9, 8), _drawn(1, 2, 3, 9, 8), _drawn(2, 2, 3, 9, 4)


def _both(spec: qkv.Spec, *tensors: Tensor, **options: object) -> None:
    with qkv.strategy("reference"):
        expected = spec(*tensors, **options)
    with qkv.strategy("cpu"):
        torch.testing.assert_close(spec(*tensors, **options), expected)


REFUSED: dict[str, tuple[qkv.Spec, dict[str, object], str]] = {
    "linear": (qkv.Spec(GROUPED, weights=qkv.linear()), {}, "linear weights are not supported"),
    "clamped": (
        qkv.Spec(GROUPED, weights=qkv.differential(0.5, renormalize="clamp")),
        {},
        'renormalize="clamp" needs both maps of a row at once; strategy "chunked" has them',
    ),
    "weights": (qkv.Spec(GROUPED), {"want": "weights"}, "it cannot return weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_refuses(case: str) -> None:
    spec, options, reason = REFUSED[case]
    with qkv.strategy("cpu"), pytest.raises(qkv.Refused) as refused:
        spec.run(Q, K, V, **options)
    assert refused.value.reasons == (reason,)


def test_more_axes_than_it_takes() -> None:
    pattern = "a b c e f g h m i d, a b c e f g h m n j d, a b c e f g h m n j v -> a b c e f g h m i v"
    spec = qkv.Spec(pattern.replace(" n j", " j").replace("m i", "m n i").replace("m j", "m n j"))
    q = torch.randn(*([1] * 9), 3, 4)
    with qkv.strategy("cpu"), pytest.raises(qkv.Refused, match="9 axes of one role; it takes 8"):
        spec(q, q, q)


@pytest.mark.parametrize("output", ("b (h g) i e", "e i b (h g)", "b i (h g e)", "i b (g h) e"))
def test_the_output_is_written_in_the_layout_of_the_pattern(output: str) -> None:
    spec = qkv.Spec(GROUPED.split(" -> ")[0] + " -> " + output, keep=qkv.causal())
    _both(spec, Q, K, V)
    with qkv.strategy("cpu"):
        assert spec(Q, K, V).is_contiguous()


def test_two_sequences_and_two_keys() -> None:
    spec = qkv.Spec(
        "b y x h d, b m n h d, b m n h e -> b y x h e",
        keep=qkv.keep(lambda y, x, m, n: (abs(y - m) <= 1) & (abs(x - n) <= 1)),
    )
    q = _drawn(0, 2, 4, 5, 3, 8)
    _both(spec, q, q, q)


@pytest.mark.parametrize("keys", (1, 7, 1500, 5000))
def test_few_queries_over_many_keys(keys: int) -> None:
    """Decoding: keys are split among tasks, and their parts merged."""
    k, v = _drawn(3, 2, 3, keys, 8), _drawn(4, 2, 3, keys, 4)
    spec = qkv.Spec(GROUPED, keep=qkv.causal(), weights=qkv.softmax(sink=0.5))
    _both(spec, Q[:, :, :1], k, v, align="end")


def test_a_negated_view_is_read_as_what_it_means() -> None:
    x = torch._neg_view(Q)
    assert x.is_neg()
    spec = qkv.Spec(GROUPED)
    with qkv.strategy("cpu"):
        assert spec(x, K, V).equal(spec(x.resolve_neg(), K, V))


def _calls() -> dict[str, Callable[[], Tensor]]:
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    return {
        "parts": lambda: qkv.attention(Q, K, V, GROUPED, keep=qkv.causal()),
        "a term made anew": lambda: qkv.attention(Q, K, V, GROUPED, keep=qkv.causal() & qkv.window(3)),
        "a spec": lambda: spec(Q, K, V),
        "a scale": lambda: qkv.attention(Q, K, V, GROUPED, scale=float(torch.tensor(0.5))),
        "softcap": lambda: qkv.attention(Q, K, V, GROUPED, score=qkv.softcap(2.0)),
    }


@pytest.mark.parametrize("name", _calls())
def test_a_call_that_is_known_gives_the_same_bits(name: str) -> None:
    call = _calls()[name]
    with qkv.strategy("cpu"):
        first = call()
        known = len(quick._known)
        assert all(call().equal(first) for _ in range(3))
        assert len(quick._known) == known, "the second call was not known"


def test_what_is_not_the_same_call_is_not_taken_for_one() -> None:
    """One signature with other scales, other masks, other strategies, and with gradients."""
    with qkv.strategy("cpu"):
        plain = qkv.attention(Q, K, V, GROUPED)
        assert not qkv.attention(Q, K, V, GROUPED, scale=1.0).allclose(plain)
        assert not qkv.attention(Q, K, V, GROUPED, keep=qkv.causal()).allclose(plain)
        with pytest.raises(qkv.SpecError, match="scale"):
            qkv.attention(Q, K, V, GROUPED, scale=True)
        assert qkv.attention(Q.clone().requires_grad_(), K, V, GROUPED).requires_grad
        assert qkv.attention(Q.double(), K.double(), V.double(), GROUPED).dtype == torch.float64
    with qkv.strategy("linear"), pytest.raises(qkv.Refused):
        qkv.attention(Q, K, V, GROUPED)


def test_no_more_calls_are_remembered_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "REMEMBERED", len(quick._known) + 2)
    spec = qkv.Spec(GROUPED)
    with qkv.strategy("cpu"):
        for keys in range(1, 9):
            _both(spec, Q, K[:, :, :keys], V[:, :, :keys])
    assert len(quick._known) <= quick.REMEMBERED


def test_many_python_threads_at_once() -> None:
    spec = qkv.Spec(GROUPED, keep=qkv.causal())
    q, k, v = _drawn(0, 2, 6, 200, 32), _drawn(1, 2, 3, 200, 32), _drawn(2, 2, 3, 200, 32)
    with qkv.strategy("cpu"):
        expected = spec(q, k, v)
    wrong: list[int] = []

    def work(number: int) -> None:
        with qkv.strategy("cpu"):
            if not all(spec(q, k, v).equal(expected) for _ in range(10)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _read(table: Tensor) -> Any:
    return qkv.keep(lambda i, j: table[j])


def test_a_lookup_outside_its_table_is_reported_whatever_the_table_holds() -> None:
    for values in (torch.ones(2).bool(), torch.zeros(2).bool()):
        for length in (4, 600):
            q = torch.zeros(1, 1, length, 4)
            spec = qkv.Spec(keep=_read(values))
            with qkv.strategy("cpu"), pytest.raises(qkv.SpecError, match="reads outside its table"):
                spec(q, q, q)


def test_a_table_changed_before_the_backward() -> None:
    table = torch.ones(9).bool()
    q = Q.clone().requires_grad_()
    with qkv.strategy("cpu"):
        output = qkv.Spec(GROUPED, keep=_read(table))(q, K, V)
    table[3] = False
    with pytest.raises(qkv.SpecError, match="was changed in place between the forward and the backward"):
        output.sum().backward()


@pytest.mark.parametrize("target", cpu_targets())
def test_no_second_derivative(target: str) -> None:
    q = Q.clone().requires_grad_()
    with qkv.strategy("cpu"), using_cpu_target(target):
        output = qkv.Spec(GROUPED)(q, K, V)
        (slope,) = torch.autograd.grad(output.square().sum(), q, create_graph=True)
        with pytest.raises(qkv.Refused, match=r'"cpu" has no second derivative.*(?s:.*)Use strategy "reference"'):
            slope.sum().backward()


FITTING = {
    "element": 1, "shared": [2], "rows": [3], "keys": [4], "feature_size": 8, "value_size": 8, "scale": 1.0,
    "weighing": 0, "bias": 0.0, "terms_shared": 0, "pair_row": [1], "num_buckets": 0,
    "views": {"q": ([24], [8], 1), "k": ([32], [8], 1), "v": ([32], [8], 1), "out": ([24], [8], 1)},
}  # fmt: skip
UNFIT: dict[str, tuple[dict[str, object], str]] = {
    "element": ({"element": 7}, "elements of no known type"),
    "weighing": ({"weighing": 5}, "unknown weighing"),
    "axes": ({"shared": [1] * 9}, "more than 8 axes of the shared coordinates"),
    "a size below 0": ({"rows": [-1]}, "an axis of the rows has a size below 0"),
    "sizes": ({"keys": [1 << 62]}, "the sizes of the keys overflow"),
    "all sizes": ({"shared": [1 << 30], "rows": [1 << 30], "keys": [1 << 30]}, "the sizes of the scores overflow"),
    "strides": ({"views": {**FITTING["views"], "q": ([24], [1 << 62], 1)}}, "the strides of q overflow"),  # type: ignore[dict-item]
    "a stride below 0": ({"views": {**FITTING["views"], "k": ([24], [-8], 1)}}, "a stride of k is below 0"),  # type: ignore[dict-item]
    "too few strides": ({"views": {**FITTING["views"], "v": ([], [8], 1)}}, "strides of v are not as many"),  # type: ignore[dict-item]
    "no q": ({"views": {}}, "no strides of q"),
    "a name": ({"views": {**FITTING["views"], "w": ([24], [8], 1)}}, "no tensor called w"),  # type: ignore[dict-item]
    "terms": ({"terms_shared": 3}, "shared elements do not divide"),
    "pair rows": ({"pair_row": []}, "the steps of rows are not as many"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_the_door_checks_what_it_is_given(case: str) -> None:
    loaded().Attention(**FITTING)
    changed, text = UNFIT[case]
    with pytest.raises(qkv.InternalError, match=text):
        loaded().Attention(**{**FITTING, **changed})


def test_the_door_checks_each_call() -> None:
    call = loaded().Attention(**FITTING)
    x = torch.zeros(200)
    at = x.data_ptr()
    with pytest.raises(qkv.InternalError, match="made without strides of lse"):
        call.forward(at, at, at, at, lse=at)
    with pytest.raises(qkv.InternalError, match="has no output"):
        call.forward(at, at, at, 0)
    with pytest.raises(qkv.InternalError, match="no probability below 1"):
        call.forward(at, at, at, at, dropout=1.0)
