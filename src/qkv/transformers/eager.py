"""One attention call against the eager function of the source file that its module comes from.

Knows how far rounding lets two correct results lie apart. Refuses to know of whole models.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from ..errors import ModelError
from . import watch
from .mask import SymbolicMask

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half the distance from 1 to the next number, by element type."""


def worse(figure: float) -> float:
    """For finding the worst of several figures: NaN is worse than any number."""
    return math.inf if math.isnan(figure) else figure


def against_own_eager(call: watch.Call) -> None:
    """Compares one call with the eager function of the module's own source file; ``ModelError`` with the figure when it
    does not agree.
    """
    figure = own_eager_ratio(call)
    if not figure <= 1.0:
        raise ModelError(
            f"{type(call.module).__name__} gives other results with qkv than with its own eager attention, so it is "
            "refused.\n"
            f"    difference {figure:.3g} times the rounding bound, in a call of {call.query.shape[2]} queries and "
            f"{call.key.shape[2]} keys\n"
            '  Load the model with attn_implementation="eager", and please report it.'
        )


def own_eager_ratio(call: watch.Call) -> float:
    """How far the call lies from the eager function of the module's source file, in multiples of what rounding
    explains; of several functions, from the nearest.

    0 where it cannot be asked the same: the file has none or it cannot read these arguments, the call draws dropout, or
    what is kept is not in the mask.
    """
    source = sys.modules.get(type(call.module).__module__)
    functions = (
        [f for n, f in vars(source).items() if n.endswith("eager_attention_forward")] if source is not None else []
    )
    unmasked = call.mask is None and call.said.keep is not None
    if not functions or call.dropout or unmasked or call.sent["indices"] is not None:
        return 0.0
    with torch.no_grad():
        return min((_ratio(call, function) for function in functions), key=worse)


def _ratio(call: watch.Call, eager: Any) -> float:
    """The largest difference between the call's output and ``eager``'s, over queries that keep a key, as a multiple of
    what rounding explains.

    Rounding: each score is a sum of products rounded in the model's type, which moves a weight by as much as the
    score's own error; the sum over values adds a few units more. The test families and SmolLM2 stay below 0.4 in every
    type.
    """
    dtype = call.query.dtype
    mask = call.mask.rule.dense() if isinstance(call.mask, SymbolicMask) else call.mask
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    sent = {name: v for name, v in call.sent.items() if name not in ("indices", "scaling") and v is not None}
    scale = call.sent["scaling"] if call.sent["scaling"] is not None else call.query.shape[-1] ** -0.5
    training, call.module.training = call.module.training, False
    try:
        theirs = eager(call.module, call.query, call.key, call.value, mask, dropout=0.0, **sent, scaling=scale)[0]
    except (TypeError, ValueError, RuntimeError):
        return 0.0
    finally:
        call.module.training = training
    difference = (call.output.double() - theirs.double()).abs()
    if mask is not None:
        alive = (mask > torch.finfo(mask.dtype).min).any(-1)  # [batch or 1, heads or 1, query or 1]
        difference = difference * alive.transpose(1, 2).unsqueeze(-1)
    lengths = [float(x.float().square().sum(-1).amax().sqrt()) for x in (call.query, call.key)]
    score = lengths[0] * lengths[1] * abs(scale)
    unit = UNIT.get(dtype, 2.0**-8)
    bound = unit * (4.0 + score) * float(call.value.abs().amax())
    return float(difference.amax()) / max(bound, 1e-30)
