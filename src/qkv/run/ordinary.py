"""Tensors that the quick ways to the core may take: plain ones on a CPU, with nothing watching and no gradient wanted.

It knows what torch may hang on a tensor or a call. It refuses to know what is computed.
"""

from __future__ import annotations

from typing import Any

import torch

_transforms = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType]
_modes = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportPrivateUsage]
_grad = torch.is_grad_enabled
_dual: Any = torch.autograd.forward_ad
_Plain = torch.Tensor


def ordinary(q: Any, k: Any, v: Any) -> bool:
    """Whether a call on these three is one of numbers alone: no gradient, transform, mode, dual or negated view."""
    return (
        type(q) is _Plain
        and type(k) is _Plain
        and type(v) is _Plain
        and not ((q.requires_grad or k.requires_grad or v.requires_grad) and _grad())
        and q.is_cpu
        and k.is_cpu
        and v.is_cpu
        and _transforms() is None
        and _modes() == 0
        and _dual._current_level < 0
        and not (q.is_neg() or k.is_neg() or v.is_neg())
    )
