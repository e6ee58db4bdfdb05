"""Products that no dropped key can reach, even if it holds NaN or infinity.

``0 * NaN`` is NaN, so a weight of zero does not protect a sum. These products leave entries that are not finite out of
the matrix product and put their effect back for the pairs that are kept. They cost more than a plain product, and are
used only where a tensor was seen to hold such an entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor


def is_finite(*tensors: Tensor) -> bool:
    """Whether every entry is finite, by the sum of each tensor: a sum that overflows answers False, which costs time
    and nothing else.
    """
    import torch

    for tensor in tensors:
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        if not bool(torch.isfinite(tensor.detach().sum(dtype=wide))):
            return False
    return True


def clean(tensor: Tensor) -> Tensor:
    """The tensor with 0 for every entry that is not finite; no gradient flows to those."""
    import torch

    return torch.where(torch.isfinite(tensor), tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def scores(q: Tensor, k: Tensor) -> Tensor:
    """``q @ k^T`` where the products of finite rows are not touched by rows that are not: ``[..., rows, keys]``."""
    import torch

    product = clean(q) @ clean(k).transpose(-1, -2)
    odd = ~torch.isfinite(q).all(-1, keepdim=True) | ~torch.isfinite(k).all(-1).unsqueeze(-2)
    return torch.where(odd, (q.detach() @ k.detach().transpose(-1, -2)), product)


def weighted(weights: Tensor, values: Tensor, keep: Tensor | None) -> Tensor:
    """``weights @ values`` where a value that is not finite reaches the rows that keep its key, as IEEE arithmetic
    would, and no other.
    """
    import torch

    product = weights @ clean(values)
    if bool(torch.isfinite(values).all()) if not is_transformed(values) else False:
        return product
    kept = torch.ones_like(weights) if keep is None else keep.to(weights.dtype).expand_as(weights)
    held = values.detach()
    share = weights.detach()
    counts = torch.isnan(held).to(share.dtype)
    up, down = (held == torch.inf).to(share.dtype), (held == -torch.inf).to(share.dtype)
    positive, negative, zero = kept * (share > 0), kept * (share < 0), kept * (share == 0)
    nan = (kept @ counts + zero @ (up + down)) > 0
    plus = (positive @ up + negative @ down) > 0
    minus = (positive @ down + negative @ up) > 0
    extra = torch.where(plus, torch.inf, 0.0) + torch.where(minus, -torch.inf, 0.0)
    return product + torch.where(nan, torch.nan, extra).to(product.dtype)


def is_transformed(tensor: Tensor) -> bool:
    """Whether a torch.func transform wraps the tensor, whose values then cannot be asked for, or forward-mode gradients
    are on.
    """
    import torch

    if torch_level() >= 0:
        return True
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType]


def is_forward_mode() -> bool:
    """Whether forward-mode derivatives are taken."""
    return torch_level() >= 0


def torch_level() -> int:
    """The level of forward-mode derivatives, -1 outside of them."""
    import torch

    level: int = cast("Any", torch.autograd.forward_ad)._current_level
    return level


def derivatives() -> int:
    """How many ``torch.func`` reverse derivatives are being taken, one inside the other."""
    import torch

    functorch = cast("Any", torch._C)._functorch  # pyright: ignore[reportPrivateUsage]
    stack: Any = functorch.get_interpreter_stack() or ()
    return sum(1 for each in stack if each.key() == functorch.TransformType.Grad)
