"""What people use today, each used the best way that it offers: torch's SDPA, compiled FlexAttention, eager torch.

Masks and biases that a peer needs as tensors are made once, outside what is timed; block masks too. FlexAttention is
compiled before it is timed, for this one shape. Refuses to know qkv.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from harness import Bench, Thunk

sdpa: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
ScoreFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def dense(mask: MaskFunction, queries: int, keys: int) -> Tensor:
    """The mask as a bool tensor [query, key]; True is kept."""
    zero = torch.zeros((), dtype=torch.int64)
    return mask(zero, zero, torch.arange(queries)[:, None], torch.arange(keys)[None, :])


def flex(
    bench: Bench,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: MaskFunction | None = None,
    score: ScoreFunction | None = None,
    label: str = "compiled FlexAttention",
) -> dict[str, Thunk]:
    """One labelled way, compiled for these tensors and run once; or none and a note with what it said."""
    if bench.small:
        bench.note(f"{label}: left out of quick looks, it compiles for half a minute")
        return {}
    torch.compiler.reset()  # each shape of its own: no general code for many
    with torch.no_grad():
        block = None if mask is None else create_block_mask(mask, None, None, q.shape[2], k.shape[2], device="cpu")
        compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)

        def run() -> object:
            with torch.no_grad():
                return compiled(q, k, v, score_mod=score, block_mask=block, enable_gqa=q.shape[1] != k.shape[1])

        try:
            run()
        except Exception as error:  # noqa: BLE001 - whatever the compiler raises is what it says to its user
            bench.note(f"{label}: {type(error).__name__}: {str(error).strip().splitlines()[0]:.200}")
            return {}
    return {label: run}


def eager(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, cap: float | None = None) -> Tensor:
    """Scores, softmax, product, as a model's eager attention has them; ``bias`` is added last, -inf drops."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ v


def grouped(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Thunk]:
    """SDPA's ways to read a grouped cache, all keys kept; which is fastest is for the clock to say.

    Heads that are repeated beforehand take a cache as many times as large: no decoder has it so, and it is here so that
    no better way is left out. Folded: the group's heads are taken for queries, which no mask may tell apart.
    """
    groups = q.shape[1] // k.shape[1]
    repeated_k, repeated_v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    batch, heads, length, size = q.shape

    def folded() -> Tensor:
        return sdpa(q.reshape(batch, k.shape[1], groups * length, size), k, v).reshape(batch, heads, length, size)

    return {
        "sdpa, enable_gqa": lambda: sdpa(q, k, v, enable_gqa=True),
        "sdpa, heads repeated beforehand": lambda: sdpa(q, repeated_k, repeated_v),
        "sdpa, group folded into queries": folded,
    }
