"""Names: what there is, how it is found, and that every entry says what it is and runs."""

from __future__ import annotations

import re

import pytest
import torch

import qkv
from tests.mechanisms.plain import soft

LAYERS = [(name, layer.name) for name in qkv.mechanisms.names() for layer in qkv.mechanisms.get(name).layers]


def test_the_fifteen() -> None:
    assert qkv.mechanisms.names("mechanism") == (
        "scaled-dot-product",
        "multi-head",
        "causal",
        "cross",
        "multi-query",
        "grouped-query",
        "relative-position-bias",
        "rope",
        "alibi",
        "linear",
        "sliding-window",
        "bigbird",
        "flash",
        "differential",
        "latent",
    )


def test_groups_make_up_the_whole() -> None:
    names = qkv.mechanisms.names
    assert names("mechanism") + names("stack") == names()
    assert len(set(names())) == len(names())
    with pytest.raises(qkv.SpecError, match='group="stacks" is not known'):
        names("stacks")  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["grouped-query", "Grouped_Query", " grouped query "])
def test_names_are_read_kindly(asked: str) -> None:
    assert qkv.mechanisms.get(asked).title == "grouped-query"


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(qkv.SpecError, match=r'no mechanism is called "multi-hed"\.\n  Did you mean multi-head'):
        qkv.mechanisms.get("multi-hed")
    with pytest.raises(qkv.SpecError, match=r"Known: scaled-dot-product, multi-head, "):
        qkv.mechanisms.get("zzzz")


def test_an_unknown_layer_names_those_there_are() -> None:
    with pytest.raises(qkv.SpecError, match=r'latent has no layer "both"\.\n  It has: rebuilt, absorbed\.'):
        qkv.mechanisms.get("latent").layer("both")
    with pytest.raises(qkv.SpecError, match=r'rope has no layer "local"\.\n  It has: one layer, without a name\.'):
        qkv.mechanisms.get("rope").layer("local")


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_every_entry_says_what_it_is(name: str, layer: str) -> None:
    found = qkv.mechanisms.get(name).layer(layer)
    assert re.match(r"Return .*[.:]", found.about), found.about
    assert len(found.formula) > 10
    assert re.search(r"\d{4}", found.source), found.source
    assert found.cache


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_every_entry_runs_and_strategies_agree(name: str, layer: str) -> None:
    example = qkv.mechanisms.get(name).example(layer, length=6, seed=1, dtype=torch.float64)
    outputs = {}
    for strategy in ("reference", "chunked"):
        with qkv.strategy(strategy):
            outputs[strategy] = example.spec(*example.tensors, **example.options)
    assert outputs["reference"].isfinite().all()
    assert outputs["reference"].abs().max() > 0
    torch.testing.assert_close(outputs["chunked"], outputs["reference"], rtol=1e-10, atol=1e-12)


def test_examples_are_drawn_from_the_seed() -> None:
    entry = qkv.mechanisms.get("relative-position-bias")
    one, same, other = (entry.example(seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, same.tensors, strict=True))
    assert torch.equal(one.learned["table"], same.learned["table"])
    assert not torch.equal(one.tensors[0], other.tensors[0])


def test_the_plain_softmax_can_fail() -> None:
    """The formula that others are compared with is right where the answer is known."""
    third = soft(torch.zeros(1, 3, dtype=torch.float64))
    assert third.tolist() == [[1 / 3] * 3]
    assert soft(torch.zeros(1, 3), torch.tensor([True, False, True])).tolist() == [[0.5, 0.0, 0.5]]
    assert soft(torch.zeros(1, 3), sink=0.0).tolist() == [[0.25] * 3]
