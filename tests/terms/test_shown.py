"""What terms print, and what they say of arguments that are no tensors or no numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import qkv


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (qkv.rope(), "rope()"),
        (qkv.rope(1e6), "rope(1e+06)"),
        (qkv.rope(500.0, interleaved=True, fraction=0.5), "rope(500, interleaved=True, fraction=0.5)"),
        (qkv.rope(sections=(2, 2), section_layout="axial"), "rope(sections=(2, 2), section_layout='axial')"),
        (qkv.rope(query="y", key="Y"), "rope(query='y', key='Y')"),
        (qkv.rope(scaling=qkv.scaling.linear(4.0)), "rope(scaling=Linear(factor=4.0))"),
        (qkv.score(lambda score, i, j: qkv.where(i > j, score, -1.0)), "score(where(i > j, score, -1))"),
        (qkv.score(lambda score, i, j: score - qkv.minimum(i - j, 8)), "score(score - minimum(i - j, 8))"),
        (qkv.keep(lambda i, j: j < qkv.size_of("j") - 1), "keep(j < (size_of(j) - 1))"),
    ],
)
def test_terms_print_as_they_are_written(term: object, text: str) -> None:
    assert repr(term) == text


def message(kind: type[qkv.QkvError], call: Callable[[], object]) -> list[str]:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value).split("\n")


@pytest.mark.parametrize("given", [3.0, [0.0], None])
@pytest.mark.parametrize("pattern", [None, "i j"])
def test_a_bias_that_is_no_tensor(given: object, pattern: str | None) -> None:
    assert message(qkv.DtypeError, lambda: qkv.bias(given, pattern)) == [  # type: ignore[arg-type]
        f"bias needs a torch tensor, not {type(given).__name__}.",
        "  Write torch.as_tensor(values).",
    ]


def test_a_bias_without_axes() -> None:
    assert message(qkv.SpecError, lambda: qkv.bias(torch.zeros(2, 3)))[0] == (
        "bias: nothing says what the axes of a tensor of shape (2, 3) are."
    )


@pytest.mark.parametrize("given", [0, -1, 2.0, "x", True])
def test_a_number_of_heads_that_is_none(given: object) -> None:
    assert message(qkv.SpecError, lambda: qkv.alibi_slopes(given))[0] == (  # type: ignore[arg-type]
        f"alibi_slopes: num_heads={given!r} must be a whole number of at least 1."
    )


@pytest.mark.parametrize(
    "call",
    [
        qkv.scaling.linear,
        qkv.scaling.proportional,
        lambda given: qkv.scaling.dynamic_ntk(given, 4096),
        lambda given: qkv.scaling.yarn(given, 4096),
        lambda given: qkv.scaling.llama3(given, 1.0, 4.0, 8192),
    ],
)
@pytest.mark.parametrize("given", ["x", None, True, 0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_is_no_positive_number(call: Callable[[object], object], given: object) -> None:
    said = message(qkv.SpecError, lambda: call(given))
    assert said[0].endswith(f": factor = {given!r}.")
    assert said[1] == "  It must be a finite number above 0."


def test_a_picture_of_a_mask_with_other_names() -> None:
    mask = qkv.causal(query="seq_q", key="seq_k")
    assert message(qkv.CoordinateError, lambda: mask.picture(3)) == [
        'causal() names the coordinate "seq_q", which the scores do not have.',
        "    scores have: b h g i j",
        '    pattern: none, but queries "i" by keys "j"; name others as in picture(n, query="seq_q", key="seq_k")',
        "  A term may use shared, query-only and key coordinates.",
    ]
    assert mask.count(3, query="seq_q", key="seq_k") == 6


def test_terms_without_a_definition_are_faults() -> None:
    assert message(qkv.InternalError, lambda: qkv.Spec(keep=qkv.Keep())) == [
        "Keep does not say which keys it keeps; please report this"
    ]
    made = qkv.scaling.Scaling()
    assert message(qkv.InternalError, lambda: qkv.rope(scaling=made).frequencies(8, 8)) == [
        "Scaling does not say what its frequencies are; please report this"
    ]
