"""Each argument that models send to their attention is honoured, or refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv
from qkv.errors import DtypeError, ModelError, PositionError, ShapeError, SpecError
from qkv.transformers import qkv_attention, said, watch
from qkv.transformers.arguments import IGNORED
from qkv.transformers.check import limit_of
from qkv.transformers.said import Said, spec_of

LIMIT = limit_of(torch.float32)
B, H, G, L, J, D = 2, 2, 3, 5, 5, 8  # batch, key-value heads, queries for each, queries, keys, features


class Layer(nn.Module):
    """An attention layer as far as the interface reads one."""

    is_causal = False
    layer_idx = 0


@pytest.fixture(autouse=True)
def _no_first_use() -> Any:
    with watch.watching(lambda call: None):
        yield


def tensors(keys: int = J, queries: int = L) -> tuple[Tensor, Tensor, Tensor]:
    return 2 * torch.randn(B, H * G, queries, D), 2 * torch.randn(B, H, keys, D), torch.randn(B, H, keys, D)


def plainly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kept: Tensor | None = None,
    bias: Tensor | float = 0.0,
    scale: float = D**-0.5,
    cap: float | None = None,
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, in float64: output [batch, query, heads, e] and weights."""
    key, value = key.repeat_interleave(G, 1).double(), value.repeat_interleave(G, 1).double()
    scores = query.double() @ key.transpose(-1, -2) * scale
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    scores = scores + bias
    if kept is not None:
        scores = scores.masked_fill(~kept, -math.inf)
    if sink is not None:
        scores = torch.cat([scores, sink.double().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]].nan_to_num(0.0)
    return (weights @ value).transpose(1, 2), weights


def close(ours: Tensor, wanted: Tensor) -> bool:
    return float((ours.double() - wanted).abs().max() / wanted.abs().max()) <= LIMIT


def lower(queries: int = L, keys: int = J) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layers_sink_is_one_spec_until_it_holds_something_else(dtype: torch.dtype) -> None:
    made = torch.Generator().manual_seed(2)
    sink = torch.nn.Parameter(torch.randn(4, generator=made).to(dtype))
    sizes, specs = (1, 4, 1, 9), list[qkv.Spec]()
    q, k = torch.randn(1, 4, 1, 8, generator=made).to(dtype), torch.randn(1, 2, 9, 8, generator=made).to(dtype)
    cache = qkv.cache.Dense()
    cache.append(k, k)

    def held() -> torch.Tensor:
        """By a spec that may know the step, beside one that knows none."""
        specs.append(spec_of(Said(None), None, None, sink, None, sizes))
        fresh = qkv.Spec(specs[-1].pattern, weights=qkv.softmax(sink=sink.detach().clone()))
        with torch.no_grad():
            found = specs[-1](q, cache=cache)
            assert torch.equal(found, fresh(q, cache=cache))
        return found

    first = [held() for _ in range(3)]
    assert specs[0] is specs[1] is specs[2]
    sink.data.add_(1.0)  # which leaves no trace
    second = [held() for _ in range(3)]
    assert specs[3] is specs[5] is not specs[0] and not torch.equal(first[0], second[0])
    said._sinks.clear()  # as when many others came between
    sink.data.mul_(3.0)
    held()
    sink.data = torch.zeros(4, dtype=dtype)
    held()
    assert spec_of(Said(None), None, None, sink.detach(), None, sizes) is not specs[-1]  # no layer's own


def test_scaling_softcap_and_sinks() -> None:
    q, k, v = tensors()
    sink = torch.randn(H * G)
    ours, weights = qkv_attention(Layer(), q, k, v, None, scaling=0.7, softcap=2.0, s_aux=sink)
    assert weights is None and ours.shape == (B, L, H * G, D)
    assert close(ours, plainly(q, k, v, scale=0.7, cap=2.0, sink=sink)[0])


def test_no_scaling_means_one_over_the_root_of_the_feature_size() -> None:
    q, k, v = tensors()
    assert close(qkv_attention(Layer(), q, k, v, None)[0], plainly(q, k, v)[0])


def test_a_learned_scale_has_a_gradient() -> None:
    q, k, v = tensors()
    scale = torch.tensor(0.5, requires_grad=True)
    qkv_attention(Layer(), q, k, v, None, scaling=scale)[0].square().sum().backward()
    twin = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    plainly(q, k, v, scale=twin)[0].square().sum().backward()  # pyright: ignore[reportArgumentType]
    assert close(scale.grad, twin.grad)


@pytest.mark.parametrize("shape", [(B, H * G, L, J), (1, H * G, L, J), (B, 1, L, J), (1, 1, 1, J), (B, 1, 1, J)])
def test_masks_that_are_tensors(shape: tuple[int, ...]) -> None:
    q, k, v = tensors()
    kept = torch.rand(shape) < 0.6
    kept[..., 0] = True
    wanted = plainly(q, k, v, kept=kept)[0]
    assert close(qkv_attention(Layer(), q, k, v, kept)[0], wanted)
    lowest = torch.finfo(torch.float32).min
    assert close(qkv_attention(Layer(), q, k, v, torch.where(kept, 0.0, lowest))[0], wanted)
    assert close(qkv_attention(Layer(), q, k, v, torch.where(kept, 0.0, -math.inf))[0], wanted)
    bias = torch.randn(shape)
    wanted = plainly(q, k, v, kept=kept, bias=bias)[0]
    assert close(qkv_attention(Layer(), q, k, v, torch.where(kept, bias, lowest))[0], wanted)


def test_a_row_that_a_mask_empties_gives_zero() -> None:
    q, k, v = tensors()
    mask = torch.zeros(B, 1, L, J)
    mask[0, :, 2] = torch.finfo(torch.float32).min
    ours = qkv_attention(Layer(), q, k, v, mask)[0]
    assert bool((ours[0, 2] == 0).all()) and bool((ours[0, 1] != 0).any())


def test_a_mask_of_whole_numbers_or_another_shape_is_refused() -> None:
    q, k, v = tensors()
    with pytest.raises(DtypeError, match="1 for kept or 0 for kept"):
        qkv_attention(Layer(), q, k, v, torch.ones(B, 1, L, J, dtype=torch.long))
    with pytest.raises(ShapeError, match="the attention mask of Layer has the shape"):
        qkv_attention(Layer(), q, k, v, torch.ones(B, 1, L, J + 1, dtype=torch.bool))
    with pytest.raises(ShapeError, match="position_bias has the shape"):
        qkv_attention(Layer(), q, k, v, None, position_bias=torch.zeros(1, H, L, J))


def test_a_mask_that_is_learned_has_a_gradient() -> None:
    q, k, v = tensors()
    ours, twin = (
        torch.randn(1, H * G, L, J, generator=torch.Generator().manual_seed(3)).requires_grad_() for _ in "ab"
    )
    qkv_attention(Layer(), q, k, v, ours)[0].square().sum().backward()
    plainly(q, k, v, bias=twin)[0].square().sum().backward()
    assert close(ours.grad, twin.grad)


def test_position_bias_adds_to_the_scores_beside_a_mask() -> None:
    q, k, v = tensors()
    bias = torch.randn(1, H * G, L, J)
    ours = qkv_attention(Layer(), q, k, v, lower()[None, None], position_bias=bias)[0]
    assert close(ours, plainly(q, k, v, kept=lower(), bias=bias)[0])


@pytest.mark.parametrize("said", ["argument", "module"])
def test_without_a_mask_is_causal_is_honoured(said: str) -> None:
    q, k, v = tensors()
    layer = Layer()
    layer.is_causal = said == "module"
    ours = qkv_attention(layer, q, k, v, None, is_causal=True if said == "argument" else None)[0]
    assert close(ours, plainly(q, k, v, kept=lower())[0])
    assert close(qkv_attention(layer, q, k, v, None, is_causal=False)[0], plainly(q, k, v)[0])


def test_without_a_mask_the_window_is_honoured() -> None:
    q, k, v = tensors()
    band = lower() & ~lower().tril(-2)
    assert close(
        qkv_attention(Layer(), q, k, v, None, is_causal=True, sliding_window=2)[0], plainly(q, k, v, kept=band)[0]
    )
    both = band | band.T
    assert close(
        qkv_attention(Layer(), q, k, v, None, is_causal=False, sliding_window=2)[0], plainly(q, k, v, kept=both)[0]
    )
    last = torch.tensor([[False, False, False, True, True]])
    assert close(
        qkv_attention(Layer(), q[:, :, :1], k, v, None, sliding_window=2)[0], plainly(q[:, :, :1], k, v, kept=last)[0]
    )
    assert close(qkv_attention(Layer(), q[:, :, :1], k, v, None, sliding_window=9)[0], plainly(q[:, :, :1], k, v)[0])


def test_a_mask_already_holds_the_window() -> None:
    q, k, v = tensors()
    ours = qkv_attention(Layer(), q, k, v, lower()[None, None], sliding_window=2, is_causal=True)[0]
    assert close(ours, plainly(q, k, v, kept=lower())[0])


def test_causal_without_a_mask_and_unequal_lengths_is_refused() -> None:
    q, k, v = tensors(keys=7)
    with pytest.raises(PositionError, match="5 queries over 7 keys and sends no mask"):
        qkv_attention(Layer(), q, k, v, None, is_causal=True)


def test_one_query_sees_all_keys() -> None:
    q, k, v = tensors(queries=1)
    assert close(qkv_attention(Layer(), q, k, v, None, is_causal=True)[0], plainly(q, k, v)[0])


def test_chosen_indices_are_the_only_keys() -> None:
    q, k, v = tensors()
    indices = torch.tensor([[0, 1, -1]]).expand(B, L, 3)
    kept = torch.zeros(L, J, dtype=torch.bool)
    kept[:, :2] = True
    assert close(qkv_attention(Layer(), q, k, v, None, indices=indices)[0], plainly(q, k, v, kept=kept)[0])
    ours = qkv_attention(Layer(), q, k, v, lower()[None, None], indices=indices)[0]
    assert close(ours, plainly(q, k, v, kept=kept & lower())[0])


def test_output_attentions_gives_the_weights() -> None:
    q, k, v = tensors()
    ours, weights = qkv_attention(Layer(), q, k, v, lower()[None, None], output_attentions=True)
    wanted, table = plainly(q, k, v, kept=lower())
    assert weights is not None and weights.shape == (B, H * G, L, J)
    assert close(ours, wanted) and close(weights, table)


def test_dropout_drops_and_keeps_the_mean() -> None:
    q, k = torch.zeros(1, 1, 400, 4), torch.zeros(1, 1, 64, 4)
    v = torch.ones(1, 1, 64, 1)
    ours = qkv_attention(Layer(), q, k, v, None, dropout=0.25)[0]
    assert ours.std() > 0.02 and abs(float(ours.mean()) - 1.0) < 0.02
    assert bool((qkv_attention(Layer(), q, k, v, None, dropout=0.0)[0] - 1.0).abs().max() < 1e-5)


def test_autocast_computes_in_its_type() -> None:
    q, k, v = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = qkv_attention(Layer(), q, k.bfloat16(), v, None)[0]
    assert ours.dtype == torch.bfloat16


def test_learned_queries_serve_the_whole_batch() -> None:
    q, k, v = tensors()
    ours = qkv_attention(Layer(), q[:1], k, v, None)[0]
    assert close(ours, plainly(q[:1].expand(B, -1, -1, -1), k, v)[0])


def test_a_mask_for_several_serves_one() -> None:
    q, k, v = tensors()
    kept = lower().expand(B, 1, L, J).clone()
    kept[0, :, :, 0] = False
    kept[0, :, 0, 0] = True
    ours = qkv_attention(Layer(), q[:1], k[:1], v[:1], kept)[0]
    one = [x[:1].expand(B, -1, -1, -1) for x in (q, k, v)]
    assert ours.shape[0] == B and close(ours, plainly(*one, kept=kept)[0])


class Cache:
    """What continuous batching's cache does, as far as attention sees it."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.past = key, value

    def update(
        self, *, key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        assert layer_idx == 0 and isinstance(kwargs, dict)
        return torch.cat([self.past[0], key_states], 2), torch.cat([self.past[1], value_states], 2)


def test_a_paged_cache_is_updated_and_needs_a_mask() -> None:
    q, k, v = tensors()
    cache = Cache(*tensors(3)[1:])
    whole = torch.cat([cache.past[0], k], 2), torch.cat([cache.past[1], v], 2)
    kept = lower(L, J + 3)
    assert close(qkv_attention(Layer(), q, k, v, kept[None, None], cache=cache)[0], plainly(q, *whole, kept=kept)[0])
    with pytest.raises(ModelError, match=r"sends `cache` .continuous batching. without a mask"):
        qkv_attention(Layer(), q, k, v, None, cache=cache)
    with pytest.raises(ModelError, match="block table"):
        qkv_attention(Layer(), q, k, v, kept[None, None], cache=cache, block_table=torch.zeros(1))


def test_packed_lengths_without_a_mask_are_refused() -> None:
    q, k, v = tensors()
    lengths = torch.tensor([0, 2, 5])
    with pytest.raises(SpecError, match="cu_seq_lens_q"):
        qkv_attention(Layer(), q, k, v, None, cu_seq_lens_q=lengths, is_causal=True)
    given = qkv_attention(Layer(), q, k, v, lower()[None, None], cu_seq_lens_q=lengths, max_length_q=3)[0]
    assert close(given, plainly(q, k, v, kept=lower())[0])


def test_an_unknown_argument_is_refused_by_name() -> None:
    q, k, v = tensors()
    with pytest.raises(SpecError, match="Layer sends `block_indices`, `tau` to its attention"):
        qkv_attention(Layer(), q, k, v, None, tau=2.0, block_indices=torch.zeros(1), position_ids=torch.arange(5))
    assert close(qkv_attention(Layer(), q, k, v, None, tau=None, deterministic=False)[0], plainly(q, k, v)[0])


def test_each_argument_left_aside_has_its_reason() -> None:
    assert all(reason and not reason.endswith(".") for reason in IGNORED.values())
    honoured = {
        "scaling",
        "sliding_window",
        "softcap",
        "s_aux",
        "position_bias",
        "dropout",
        "is_causal",
        "cache",
        "indices",
    }
    assert not honoured & IGNORED.keys()
