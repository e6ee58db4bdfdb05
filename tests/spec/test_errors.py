"""Every class of errors is raised by something a caller does, and reads as it should, to the letter and in a
traceback.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable

import pytest
import torch

import qkv
from qkv import core, errors

Q, K = torch.zeros(2, 8, 5, 64), torch.zeros(2, 8, 128, 64)
Call = Callable[[], object]


def _load() -> object:
    from qkv.transformers.load import load_model

    return load_model("/nowhere/at/all")


def _taken_apart() -> object:
    from qkv.terms.keep import Keep

    class Unfinished(Keep):
        """A mask that does not say what it keeps."""

    return qkv.Spec(keep=Unfinished())


def _refused() -> object:
    with qkv.strategy("sdpa"):
        return qkv.attention(Q, K, K, score=qkv.softcap(5.0))


def _target() -> object:
    with core.using_cpu_target("avx9"):
        return qkv.cpu_target()


RAISED: dict[type[qkv.QkvError], tuple[Call, type[Exception]]] = {
    qkv.PatternError: (lambda: qkv.Spec("b h i d, b h i d, b h i d -> b h i d"), ValueError),
    qkv.CoordinateError: (lambda: qkv.Named(Q, "b h i d").sum("j"), ValueError),
    qkv.SizeMismatch: (lambda: qkv.attention(Q, K, K[:, :, :127]), ValueError),
    qkv.ShapeError: (lambda: qkv.attention(Q[0, 0], K, K), ValueError),
    qkv.DtypeError: (lambda: qkv.attention(Q.long(), K, K), TypeError),
    qkv.DeviceError: (lambda: qkv.attention(Q, K.to("meta"), K), ValueError),
    qkv.SpecError: (lambda: qkv.Spec(scale=float("nan")), ValueError),
    qkv.PositionError: (lambda: qkv.attention(Q, K, K, keep=qkv.causal()), ValueError),
    qkv.TraceError: (lambda: qkv.keep(lambda i, j: j if i else j > 0), TypeError),
    qkv.CacheError: (lambda: qkv.cache.Recurrent().truncate(3), ValueError),
    qkv.Refused: (_refused, RuntimeError),
    qkv.TargetError: (_target, ValueError),
    qkv.ModelError: (_load, RuntimeError),
    qkv.EinError: (lambda: qkv.ein.source("fn f("), ValueError),
    qkv.LimitError: (lambda: qkv.Spec("b " * 5000), ValueError),
    qkv.InternalError: (_taken_apart, RuntimeError),
}


def test_the_table_has_every_class() -> None:
    classes = {x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, qkv.QkvError)}
    assert classes - {qkv.QkvError} == set(RAISED)


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_every_class_is_raised(kind: type[qkv.QkvError]) -> None:
    """By its own mistake, under its public name, as the built-in class behind it, and through a pickle."""
    call, builtin = RAISED[kind]
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert isinstance(caught.value, builtin)
    assert getattr(qkv, kind.__name__) is kind
    assert traceback.format_exception_only(caught.value)[0].startswith(f"qkv.{kind.__name__}: ")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes: workers send errors home this way
    assert (str(again), vars(again)) == (str(caught.value), vars(caught.value))


def test_size_mismatch_reads_as_in_the_style() -> None:
    with pytest.raises(qkv.SizeMismatch) as caught:
        qkv.attention(Q, K, K[:, :, :127])
    assert traceback.format_exception_only(caught.value) == [
        'qkv.SizeMismatch: coordinate "j" has two sizes.\n'
        "    k: j=128   (argument 2: b=2 h=8 j=128 d=64)\n"
        "    v: j=127   (argument 3: b=2 h=8 j=127 e=64)\n"
        '  Every tensor that carries "j" must agree. Was the last value dropped?\n'
    ]
    assert caught.value.coordinate == "j"
    assert caught.value.seen == {"k": 128, "v": 127}


def test_pattern_error_reads_as_in_the_style() -> None:
    with pytest.raises(qkv.PatternError) as caught:
        qkv.Spec("b h i d, b h i d, b h i d -> b h i d")
    assert traceback.format_exception_only(caught.value) == [
        'qkv.PatternError: "i" stands in both Q and K, so nothing tells queries from keys.\n'
        "    b h i d, b h i d, b h i d -> b h i d\n"
        "                 ^\n"
        "  Self-attention still has two coordinates: b h i d, b h j d, b h j e -> b h i e\n"
    ]


def test_refused_reads_as_in_the_style() -> None:
    """The strategy, each reason on a line of its own, and another strategy that runs the call."""
    with pytest.raises(qkv.Refused) as caught, qkv.strategy("sdpa"):
        qkv.attention(Q, K, K, score=qkv.softcap(5.0), keep=qkv.window(3), align="end")
    assert traceback.format_exception_only(caught.value) == [
        'qkv.Refused: strategy "sdpa" cannot run this spec.\n'
        "    score term softcap(5) is not supported\n"
        "    keep=window(3) would need a mask of all pairs in memory\n"
        '  Use strategy "chunked", or leave it to the planner.\n'
    ]
    assert caught.value.strategy == "sdpa"
    assert caught.value.reasons == (
        "score term softcap(5) is not supported",
        "keep=window(3) would need a mask of all pairs in memory",
    )
