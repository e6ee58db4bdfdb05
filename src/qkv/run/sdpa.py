"""Strategy ``sdpa``: torch's scaled_dot_product_attention, only where it computes exactly this and runs a fused kernel.

Its kernels multiply dropped values by zero, so masks need finite k and v; ``is_causal`` aligns unequal lengths at the
first key, whatever the caller means, and needs a scale above 0; with a learned mask it takes its math kernel, which
holds every score. All of that is refused here, with the reason. Strided features, which would change the kernel and the
bits, are copied first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..plan import Capability, Cost, Request
from ..plan.cost import dense_flops, price, tensor_bytes
from .masks import is_plain_causal
from .result import Computed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .bind import Bound

MATH = 0
"""torch's number for its math kernel, in ``torch.nn.attention.SDPBackend``."""

SMALLEST_SCALE = 2.0**-126
"""The smallest float32 of full precision; a positive scale below it may be 0 to a kernel."""


def _mask(request: Request) -> str | None:
    lowered = request.lowered
    if lowered.keep is None:
        return None
    scale = request.spec.scale
    if scale is not None and scale < SMALLEST_SCALE:
        return f"its kernels scale after masking, and -inf times scale={scale:g} is not -inf"
    if (
        len(lowered.query_order) < 1
        or len(lowered.key) != 1
        or not any(is_plain_causal(lowered.keep, q, lowered.key[0]) for q in lowered.query_order)
    ):
        return f"keep={request.spec.keep!r} would need a mask of all pairs in memory"
    if request.relation != "equal":
        return "is_causal aligns at the first key; queries and keys differ in number or have positions of their own"
    if not is_plain_causal(lowered.keep, lowered.query_order[0], lowered.key[0]):
        return "the causal coordinate is not the only query sequence"
    return None


def _form(request: Request) -> str | None:
    """The shapes that its kernels take: one query sequence, one key, at most one group of heads."""
    lowered = request.lowered
    if len(lowered.query_order) > 2 or len(lowered.query_order) == 0 or len(lowered.key) != 1:
        return "its layout is one query sequence, one key sequence and heads"
    if (
        len(lowered.query_order) == 2
        and lowered.roles.groups.get(lowered.shared[-1] if lowered.shared else "") != lowered.query_order[1:]
    ):
        return "two query coordinates are not a sequence and a group of the innermost heads"
    if any(size == 0 for _, size in request.sizes):
        return "a size is 0"
    if request.feature_size != request.value_size:
        return "feature and value feature differ in size, which takes it to its math kernel"
    return None


def _gradient(request: Request) -> str | None:
    """Its backward rounds the sum over a group of heads once for each head, beyond the bound in 16 bits."""
    if request.requires_grad and request.element_bytes == 2 and request.size(*request.lowered.query_order[1:]) > 1:
        return f"its {request.dtype} gradients of grouped heads are rounded before they are summed"
    return None


def _kernel(request: Request) -> str | None:
    """Asks torch itself which kernel such tensors would take."""
    if _form(request) is not None or _mask(request) is not None:
        return None
    import torch

    q, k, v = _like(request)
    grouped = q.shape[1] != k.shape[1]
    ask = cast("Callable[..., int]", torch._fused_sdp_choice)  # pyright: ignore - torch has no public question for this
    choice = ask(q, k, v, None, 0.0, request.lowered.keep is not None, scale=1.0, enable_gqa=grouped)
    return "torch would take its math kernel for these tensors" if int(choice) == MATH else None


def _like(request: Request) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors of the request's shapes and dtype with no memory of their own, for questions about kernels."""
    import torch

    lowered = request.lowered
    groups = request.size(*lowered.query_order[1:])
    batch, heads = request.size(*lowered.shared[:-1]), request.size(*lowered.shared[-1:])
    # rotated features are not rounded to 16 bits
    wide = request.spec.position is not None and request.dtype != "float64"
    dtype = torch.float32 if wide else getattr(torch, request.dtype)

    def empty(heads: int, length: int, size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device=request.device, requires_grad=request.requires_grad).expand(
            batch, heads, length, size
        )

    return (
        empty(heads * groups, request.size(lowered.query_order[0]), request.feature_size),
        empty(heads, request.num_keys, request.feature_size),
        empty(heads, request.num_keys, request.value_size),
    )


class Sdpa:
    """torch's fused kernels."""

    name = "sdpa"
    capability = Capability(
        weights=frozenset({"Softmax"}),
        score=False,
        sink=False,
        want=frozenset(),
        dropout=False,
        captured_gradients=False,
        leaks_dropped=True,
        also=(_form, _mask, _gradient, _kernel),
    )

    def cost(self, request: Request) -> Cost:
        """Both products, fused; it works through every block, causal or not, at half cost at best."""
        share = 0.6 if request.lowered.keep is not None else 1.0
        return price(share * dense_flops(request), tensor_bytes(request), 0.0, efficiency=1.0, calls=2)

    def run(self, bound: Bound) -> Computed:
        """The output of the fused kernel."""
        import torch

        lowered = bound.lowered
        grouped = len(lowered.query_order) == 2
        dtype = bound.frame.dtype if bound.spec.position is None else bound.working_dtype
        q = (bound.q.transpose(-2, -3) if grouped else bound.q).to(dtype)  # [shared..., group, query, feature]
        shared = len(lowered.shared)
        batch = q.shape[: max(0, shared - 1)]
        q = _four(q, shared, grouped)
        k, v = _four(bound.k.to(dtype), shared, False), _four(bound.v.to(dtype), shared, False)
        out = torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=lowered.keep is not None,
            scale=bound.frame.scale,
            enable_gqa=grouped and q.shape[1] != k.shape[1],
        )
        if grouped:
            heads = bound.k.shape[shared - 1]
            out = torch.unflatten(out, 1, (heads, out.shape[1] // heads)).transpose(-2, -3)
        sizes = (*batch, *(bound.k.shape[shared - 1 : shared]), *out.shape[2:]) if shared else out.shape[2:]
        return Computed(out.reshape(sizes))


def _four(x: Tensor, shared: int, grouped: bool) -> torch.Tensor:
    """``[batch, heads, length, feature]``: the last shared axis (with its group) is the head, those before it the
    batch.
    """
    if x.stride(-1) != 1:
        x = x.contiguous()
    if shared == 0:
        return x.unsqueeze(0).unsqueeze(0) if not grouped else x.unsqueeze(0)
    if grouped:
        x = x.flatten(shared - 1, shared)
    for _ in range(max(0, 2 - shared)):
        x = x.unsqueeze(0)
    return x.flatten(0, shared - 2) if shared > 2 else x
