"""What fits: the inverse of the cache's size, at its edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import SpecError
from qkv.size import cache_size, fit, model, models, policies

GROWING = [n for n in models() if {"full", "latent"} & set(model(n).kinds)]


@given(st.sampled_from(GROWING), st.integers(1, 10**6), st.integers(1, 9))
def test_the_context_that_was_sized_is_found(name: str, context: int, batch: int) -> None:
    one = model(name)
    memory = cache_size(one, context, batch=batch, source=64).bytes
    assert fit(one, memory, batch=batch, source=64).value == context
    assert fit(one, memory, context=context, source=64).value == batch


@given(st.sampled_from(GROWING), st.integers(1, 10**13), st.sampled_from(["math", "paged", "qkv"]), st.integers(1, 4))
def test_the_largest_fits_and_one_more_does_not(name: str, memory: int, policy: str, parallel: int) -> None:
    options = {"policy": policy, "tensor_parallel": parallel, "source": 64}
    for searched in ("context", "batch"):
        found = fit(model(name), memory, **{"context": 777} if searched == "batch" else {"batch": 3}, **options)
        assert found.searched == searched
        assert found.value is not None
        assert found.bytes <= memory < found.next_bytes
        if found.value:
            again = cache_size(model(name), found.context, batch=found.batch, **options)
            assert again.bytes == found.bytes


def test_windows_fill_and_then_nothing_limits() -> None:
    one = model("mistral-7b-v0.1")
    full = cache_size(one, 4096).bytes
    assert fit(one, full).value is None
    assert fit(one, full - 1).value == 4095
    assert fit(model("mamba-codestral-7b"), "1GiB").value is None
    assert fit(model("mamba-codestral-7b"), "1MiB").value == 0


def test_a_reserve_and_what_the_model_names() -> None:
    one = model("llama-3-8b")
    found = fit(one, "24GiB", reserve="16GiB")
    assert found.value == 65536
    assert found.exceeds_model
    assert not fit(one, "1GiB").exceeds_model
    assert not fit(one, "1KiB").exceeds_model
    assert fit(model("mistral-7b-v0.1"), "1GiB").exceeds_model
    assert set(policies) == {"math", "transformers", "transformers-static", "paged", "llama.cpp", "qkv"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"context": 5, "batch": 5},
            "both a context and a batch are given, so that nothing is left to find.\n"
            "  Give context= for the largest batch, or batch= for the largest context.",
        ),
        (
            {"reserve": "2GiB"},
            "reserve=2147483648 leaves nothing of memory=1073741824.\n  What is left holds the cache.",
        ),
        (
            {"reserve": "1GiB"},
            "reserve=1073741824 leaves nothing of memory=1073741824.\n  What is left holds the cache.",
        ),
        ({"context": 0}, "context=0 is too small.\n  It is at least 1."),
        ({"batch": 0}, "batch=0 is too small.\n  It is at least 1."),
    ],
)
def test_messages(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        fit(model("gpt2"), "1GiB", **options)  # type: ignore[arg-type]
    assert str(caught.value) == message
