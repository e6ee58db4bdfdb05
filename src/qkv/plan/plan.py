"""The plan: which strategy runs a call, why, what was refused and why, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plan:
    """The strategy chosen for one call and the reasons.

    ``refused`` maps every other strategy to the reason why it does not run. ``flops`` counts a multiply and an add as
    two; ``bytes`` are those of the tensors, moved once; ``scratch_bytes`` are allocated beside the output. All three
    are the forward's, by the strategy's own estimate. ``needs_finite`` says that the strategy is right only while k and
    v are finite, which each call then looks at first.

    >>> import qkv, torch
    >>> q = k = v = torch.randn(1, 2, 4, 8)
    >>> plan = qkv.Spec(score=qkv.softcap(30.0)).plan(q, k, v)
    >>> plan.strategy, plan.refused["sdpa"]
    ('cpu', 'score term softcap(30) is not supported')
    """

    strategy: str
    reason: str
    refused: dict[str, str] = field(hash=False)
    flops: int
    bytes: int
    scratch_bytes: int
    needs_finite: bool = False

    def __str__(self) -> str:
        lines = [f"strategy  {self.strategy}: {self.reason}"]
        lines += [f"refused   {name}: {reason}" for name, reason in self.refused.items()]
        lines += [
            f"cost      {self.flops:,} FLOPs, {self.bytes:,} bytes of tensors, {self.scratch_bytes:,} bytes of scratch"
        ]
        return "\n".join(lines)
