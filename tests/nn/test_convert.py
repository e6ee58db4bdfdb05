"""Converters: exact where nothing is lost, the error they report where something is, every message."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import qkv
import qkv.nn


def _layer(kv_heads: int = 4, **parts: Any) -> qkv.nn.Attention:
    return qkv.nn.Attention(32, 8, kv_heads, **{"keep": qkv.causal(), "dtype": torch.float64, **parts})


X = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_pooled_heads_are_means() -> None:
    layer = _layer(position=qkv.rope(), bias="qkv", qk_norm=True, norm_eps=1e-5, dropout=0.1)
    grouped, lost = qkv.nn.to_grouped(layer, 2, x=X)
    keys, pooled = layer.k_proj.weight.reshape(4, 4, 32), grouped.k_proj.weight.reshape(2, 4, 32)
    torch.testing.assert_close(pooled[1], (keys[2] + keys[3]) / 2)
    again = pooled.repeat_interleave(2, dim=0)
    assert lost.weights["keys"] == pytest.approx(float((again - keys).norm() / keys.norm()))
    assert lost.weights.keys() == {"keys", "values"}
    expected, found = layer.eval()(X), grouped.eval()(X)
    assert lost.output == pytest.approx(float((found - expected).norm() / expected.norm()))
    assert (grouped.dropout, grouped.norm_eps, grouped.sizes.kv_heads) == (0.1, 1e-5, 2)


def test_equal_heads_are_pooled_without_loss() -> None:
    layer = _layer(8, bias=True)
    with torch.no_grad():
        for projection in (layer.k_proj, layer.v_proj):
            for parameter in (projection.weight, projection.bias):
                by_head = parameter.view(4, 2, 4, -1)
                by_head[:, 1] = by_head[:, 0]
    grouped, lost = qkv.nn.to_grouped(layer.train(), 4, x=X)
    assert lost.weights == {"keys": 0.0, "values": 0.0}
    assert lost.output < 1e-14
    assert layer.training and grouped.training
    assert lost.parameters == (4 * 32 * 33, qkv.nn.num_attention_parameters(32, 8, 4, bias=True))
    assert lost.cache == (64, 32)


POSITIONS = {
    "none": None,
    "half of the features": qkv.rope(100.0, fraction=0.5),
    "interleaved": qkv.rope(100.0, fraction=0.5, interleaved=True),
    "all features": qkv.rope(100.0),
    "scaled": qkv.rope(100.0, fraction=0.5, scaling=qkv.scaling.yarn(4.0, 16)),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_a_latent_of_full_rank_loses_nothing(name: str) -> None:
    layer = _layer(2, position=POSITIONS[name])
    nope = {"none": 4, "all features": 0}.get(name, 2)
    rank = 2 * (nope + 4)
    latent, lost = qkv.nn.to_latent(layer, rank, x=X)
    assert lost.weights["keys and values"] == 0
    assert lost.output < 1e-12
    torch.testing.assert_close(latent(X, absorbed=True), layer(X), rtol=1e-10, atol=1e-12)
    assert lost.cache == (16, rank + 2 * (4 - nope))
    assert latent.sizes.qk_rope_head_dim == 2 * (4 - nope)


@torch.no_grad()
def test_the_error_is_that_of_the_singular_values_left_out() -> None:
    layer = _layer(8)
    latent, lost = qkv.nn.to_latent(layer, 20, x=X)
    joint = torch.cat((layer.k_proj.weight, layer.v_proj.weight))
    values = torch.linalg.svdvals(joint)
    assert lost.weights["keys and values"] == pytest.approx(float(values[20:].norm() / values.norm()))
    rebuilt = latent.kv_b_proj.weight.reshape(8, 8, 20) @ latent.kv_a_proj_with_mqa.weight
    given = torch.cat((layer.k_proj.weight.reshape(8, 4, 32), layer.v_proj.weight.reshape(8, 4, 32)), 1)
    assert lost.weights["keys and values"] == pytest.approx(float((rebuilt - given).norm() / given.norm()))
    expected = layer(X)
    assert lost.output == pytest.approx(float((latent(X) - expected).norm() / expected.norm()))
    assert 0 < lost.output < 1
    assert qkv.nn.to_latent(layer, 28, x=X)[1].output < lost.output


def test_the_report_is_printed() -> None:
    _, lost = qkv.nn.to_latent(_layer(2, position=qkv.rope(fraction=0.5)), 8)
    assert math.isnan(lost.output)
    lines = str(lost).splitlines()
    assert lines[0] == "2 heads of keys and values -> a latent of 8, beside 4 rotary features"
    assert lines[1].startswith("  error of keys and values  0.") and lines[1].endswith(" of their norm")
    assert lines[2] == "  error of outputs          not measured: give x="
    assert lines[3] == "  parameters                2,560 -> 3,328"
    assert lines[4] == "  cached for each token     16 -> 12 numbers"
    _, lost = qkv.nn.to_grouped(_layer(4), 1, x=X)
    assert str(lost).splitlines()[0] == "4 heads of keys and values -> 1, pooled"
    assert f"error of outputs          {lost.output:.4f} of their norm" in str(lost)


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda: qkv.nn.to_grouped(_layer(4), 3), "4 heads of keys cannot be pooled into kv_heads=3"),
        (lambda: qkv.nn.to_grouped(_layer(4), 0), "kv_heads=0 must be a whole number of at least 1"),
        (lambda: qkv.nn.to_grouped(_layer(score=qkv.alibi()), 2), "whose heads are counted anew"),
        (lambda: qkv.nn.to_latent(_layer(bias="qkv"), 8), "has biases, for which latent attention has no place"),
        (lambda: qkv.nn.to_latent(_layer(qk_norm=True, out_proj=False), 8), "qk_norm=True, out_proj=False, for which"),
        (lambda: qkv.nn.to_latent(_layer(score=qkv.softcap(5.0)), 8), "score=(softcap(5),), for which"),
        (lambda: qkv.nn.to_latent(_layer(weights=qkv.sigmoid()), 8), "weights=sigmoid(bias=0), for which"),
        (lambda: qkv.nn.to_latent(_layer(position=qkv.rope(sections=(1, 1))), 8), "sections=(1, 1)), for which"),
        (lambda: qkv.nn.to_latent(_layer(1), 9), "kv_lora_rank=9 is above the rank of the maps, 8"),
    ],
)
def test_what_cannot_be_converted_is_said(convert: Any, message: str) -> None:
    with pytest.raises(qkv.QkvError) as caught:
        convert()
    assert message in str(caught.value)
    assert str(caught.value).count("\n  ") >= 1


def test_terms_of_the_new_module_can_be_said() -> None:
    layer, _ = qkv.nn.to_grouped(_layer(8, score=qkv.alibi()), 2, score=qkv.alibi())
    expected, _ = qkv.nn.to_grouped(_layer(8), 2)
    assert layer.spec.score == (qkv.alibi(),)
    assert layer.sizes == expected.sizes
