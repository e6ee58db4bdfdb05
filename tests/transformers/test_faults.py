"""The comparison with eager can fail: each planted fault is seen by the harness and by the first-use check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

import qkv.transformers
from qkv.errors import ModelError
from qkv.transformers import check, qkv_attention, qkv_mask
from qkv.transformers.check import limit_of
from tests.transformers import families, harness

BY_NAME = {f.name: f for f in families.CAUSAL + families.ENCODERS + families.SEQ2SEQS}


def without(name: str) -> Callable[..., Any]:
    """Our attention function, deaf to one argument."""

    def attention(*args: Any, **kwargs: Any) -> Any:
        kwargs[name] = None
        return qkv_attention(*args, **kwargs)

    return attention


def groups_as_tiles(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
    """(g h) for (h g): key-value heads repeated as a whole instead of each on its own."""
    repeats = query.shape[1] // key.shape[1]
    return qkv_attention(module, query, key.repeat(1, repeats, 1, 1), value.repeat(1, repeats, 1, 1), mask, **kwargs)


def no_padding(**kwargs: Any) -> Any:
    return qkv_mask(**{**kwargs, "attention_mask": None})


def no_window(**kwargs: Any) -> Any:
    return qkv_mask(**{**kwargs, "mask_function": masking_utils.causal_mask_function})


def one_key_too_many(**kwargs: Any) -> Any:
    inner = kwargs["mask_function"]
    return qkv_mask(**{**kwargs, "mask_function": lambda b, h, i, j: inner(b, h, i, j) | (j == i + 1)})


FAULTS = [
    ("llama", qkv_attention, no_padding),
    ("bert", qkv_attention, no_padding),
    ("mistral", qkv_attention, no_window),
    ("gemma3", qkv_attention, no_window),
    ("llama4", qkv_attention, no_window),
    ("llama", qkv_attention, one_key_too_many),
    ("gemma2", without("softcap"), qkv_mask),
    ("gpt_oss", without("s_aux"), qkv_mask),
    ("granite", without("scaling"), qkv_mask),
    ("t5", without("position_bias"), qkv_mask),
    ("t5", without("scaling"), qkv_mask),
    ("llama", groups_as_tiles, qkv_mask),
]


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> str:
    """The family whose fault is registered under "qkv" for one test."""
    family, attention, mask = request.param
    AttentionInterface.register("qkv", attention)
    AttentionMaskInterface.register("qkv", mask)
    request.addfinalizer(qkv.transformers.register)
    return family


def named(fault: tuple[str, Any, Any]) -> str:
    return f"{fault[0]}-{fault[1].__qualname__.split('.')[0]}-{fault[2].__name__}"


@pytest.mark.parametrize("planted", FAULTS, ids=named, indirect=True)
def test_a_planted_fault_is_seen(planted: str) -> None:
    family = BY_NAME[planted]
    given = harness.inputs(family, "left")
    eager = harness.output(family.build(), given)
    faulty = family.build()
    faulty.set_attn_implementation("qkv")
    with check.watch.watching(lambda call: None):  # no first-use check in between
        ours = harness.output(faulty, given)
        seen = check.compare(faulty)
    assert harness.difference(family, given, ours, eager) > 20 * limit_of(torch.float32)
    assert seen is not None and not seen.agrees and seen.difference > 20 * seen.limit


def test_the_mask_function_left_out_is_seen() -> None:
    """What happens when only the attention function is registered: transformers makes no mask for the name."""
    family = BY_NAME["mistral"]
    AttentionInterface.register("qkv_alone", qkv_attention)
    given = harness.inputs(family, "left")
    model = family.build()
    eager = harness.output(model, given)
    model.set_attn_implementation("qkv_alone")
    with check.watch.watching(lambda call: None):
        alone = harness.output(model, given)
    assert harness.difference(family, given, alone, eager) > 20 * limit_of(torch.float32)


@pytest.mark.parametrize("planted", FAULTS[:1], ids=named, indirect=True)
def test_a_faulty_model_is_refused_with_the_figures(planted: str) -> None:
    model = BY_NAME[planted].build()
    model.set_attn_implementation("qkv")
    check._passed.clear()
    for _ in range(2):  # what was refused is refused again
        with pytest.raises(
            ModelError,
            match=r"difference [0-9.e+-]+ of the largest output, limit 4\.77e-05, worst in the left-padded row",
        ):
            harness.output(model, harness.inputs(BY_NAME[planted], "left"))
