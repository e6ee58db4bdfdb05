"""The state of linear attention under the protocol, and what a sum cannot do."""

from __future__ import annotations

import pytest
import torch

import qkv
from qkv.cache import Recurrent
from tests.cache.kinds import PATTERN, tokens


@pytest.mark.parametrize("decay", [None, 0.9, torch.tensor([0.8, 0.95], dtype=torch.float64)])
@pytest.mark.parametrize("position", [None, qkv.rope()])
def test_parts_are_the_whole(decay: object, position: object) -> None:
    pattern = "b h i d, b h j d, b h j e -> b h i e"
    weights = qkv.linear(decay=decay, head="h") if isinstance(decay, torch.Tensor) else qkv.linear(decay=decay)
    spec = qkv.Spec(pattern, keep=qkv.causal(), weights=weights, position=position)
    q, k, v = tokens(300, 1)
    k, v = k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)
    cache, made = Recurrent(), []
    for a, b in ((0, 140), (140, 141), (141, 299), (299, 300)):
        made.append(spec(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], cache=cache))
        assert cache.nbytes == 2 * 2 * (4 * 3 + 4) * 8
    with qkv.strategy("reference"):
        want = spec(q, k, v)
    torch.testing.assert_close(torch.cat(made, 2), want, atol=1e-11, rtol=0.0)
    torch.testing.assert_close(spec(q[:, :, -1:], cache=cache), want[:, :, -1:], atol=1e-11, rtol=0.0)
    assert cache.length == 300


def test_without_a_mask_every_query_sees_the_sum() -> None:
    spec = qkv.Spec(PATTERN, weights=qkv.linear())
    q, k, v = tokens(6, 2)
    cache = Recurrent()
    spec(q[:, :, :4], k[:, :, :4], v[:, :, :4], cache=cache)
    out = spec(q[:, :, 4:], k[:, :, 4:], v[:, :, 4:], cache=cache)
    torch.testing.assert_close(out, spec(q, k, v)[:, :, 4:], atol=1e-12, rtol=0.0)


def test_append_takes_mapped_keys() -> None:
    spec = qkv.Spec(PATTERN, keep=qkv.causal(), weights=qkv.linear())
    q, k, v = tokens(5, 3)
    cache = Recurrent()
    cache.append(spec.weights.map(k), v)
    torch.testing.assert_close(spec(q[:, :, -1:], cache=cache), spec(q, k, v)[:, :, -1:], atol=1e-12, rtol=0.0)


def test_what_a_sum_cannot_do() -> None:
    spec = qkv.Spec(PATTERN, keep=qkv.causal(), weights=qkv.linear(decay=0.5))
    q, k, v = tokens(5, 4)
    cache = Recurrent()
    spec(q, k, v, cache=cache)
    with pytest.raises(qkv.CacheError) as error:
        cache.truncate(3)
    assert str(error.value) == (
        "truncate(3): the recurrent cache holds a sum over 5 tokens, out of which none can be taken.\n"
        "  Fork it before a draft, and go on with the fork that is accepted."
    )
    cache.truncate(5)
    with pytest.raises(qkv.CacheError, match="the state fades at every token, by a decay that only a spec knows"):
        cache.append(k, v)
    with pytest.raises(qkv.SpecError, match="holds one sum, of all its tokens, and 2 queries would see different ones"):
        spec(q[:, :, :2], cache=cache)
    with pytest.raises(qkv.CacheError, match="holds a sum over the keys and no key"):
        cache.view()
    with pytest.raises(qkv.SpecError, match=r"holds the state of linear weights under causal\(\) or no mask"):
        qkv.Spec(PATTERN, keep=qkv.causal())(q, k, v, cache=cache)
    with pytest.raises(qkv.Refused, match="it reads tensors, and the cache is recurrent"), qkv.strategy("chunked"):
        spec(q, k, v, cache=cache)
    with pytest.raises(qkv.Refused, match="as many keys as queries"):
        spec(q[:, :, :2], k, v, cache=cache)
    assert cache.length == 5
    cache.truncate(0)
    assert cache.length == 0
    quantized = qkv.cache.Quantized(8)
    with pytest.raises(qkv.SpecError, match="linear weights read a dense or a recurrent cache, and this one is quant"):
        spec(q, k, v, cache=quantized)
    assert quantized.length == 0
