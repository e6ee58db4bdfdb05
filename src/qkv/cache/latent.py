"""The latent cache of multi-head latent attention: one small vector for each token, from which keys and values of all
heads can be made.

It holds the latent and the rotary part side by side, and the up-projections that make keys and values of them. This
module knows how both are laid out; it refuses to know when keys are rebuilt and when queries are absorbed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from ..errors import DeviceError, DtypeError, ShapeError, SizeMismatch, SpecError
from .dense import LEAST, recorded
from .protocol import Cache, Rows, View
from .slots import Slots
from .standing import NOWHERE, Standing, checked_count

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class State:
    """The rows and where they stand."""

    rows: Slots | None = None
    standing: Standing = NOWHERE


class Latent(Cache):
    """Latents and rotary keys of the tokens so far, for a spec over ``b h i d, b h j d, b h j e -> b h i e``.

    ``up_k [heads, content, latent]`` and ``up_v [heads, e, latent]`` make keys and values of a latent; d is the rotary
    size + content. ``rotary`` says where q has its rotary features: ``"first"`` (``qkv.mechanisms.latent``, and needed
    where the spec turns them) or ``"last"`` (DeepSeek's code). A call takes latents ``[b, j, latent]`` and rotary keys
    ``[b, j, rotary]`` in place of k and v: ``spec(q, latent, rotary_key, cache=cache)``.
    Source: DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), section 2.1.

    >>> import qkv, torch
    >>> cache = qkv.cache.Latent(torch.randn(4, 8, 16), torch.randn(4, 8, 16))
    >>> q, latent, rotary = torch.randn(1, 4, 3, 12), torch.randn(1, 3, 16), torch.randn(1, 3, 4)
    >>> out = qkv.Spec(keep=qkv.causal())(q, latent, rotary, cache=cache)
    >>> out.shape, cache.nbytes // (16 * 4)  # 16 slots of float32
    (torch.Size([1, 4, 3, 8]), 20)
    """

    kind: ClassVar[str] = "latent"

    def __init__(self, up_k: Tensor, up_v: Tensor, *, rotary: Literal["first", "last"] = "first") -> None:
        super().__init__()
        for name, x in (("up_k", up_k), ("up_v", up_v)):
            if not hasattr(x, "requires_grad") or not x.dtype.is_floating_point or x.dim() != 3:
                raise ShapeError(
                    f"Latent: {name} is {getattr(x, 'shape', x)!r:.80}.\n"
                    "  Give float tensors: up_k [heads, content, latent] and up_v [heads, e, latent]."
                )
        if up_k.shape[0] != up_v.shape[0] or up_k.shape[2] != up_v.shape[2]:
            raise SizeMismatch(
                f"Latent: up_k has the shape {tuple(up_k.shape)} and up_v {tuple(up_v.shape)}.\n"
                "  Both have the heads first and the latent last: [heads, content, latent], [heads, e, latent]."
            )
        if rotary not in ("first", "last"):
            raise SpecError(f'Latent: rotary = {rotary!r}.\n  Known: "first", "last".')
        self.up_k, self.up_v, self.rotary = up_k, up_v, rotary
        self.state: State = self.fresh()

    def fresh(self) -> State:
        """Nothing held."""
        return State()

    @property
    def latent_size(self) -> int:
        """Features of a latent."""
        return self.up_k.shape[2]

    @property
    def rotary_size(self) -> int:
        """Features of a rotary key; 0 before the first append."""
        return 0 if self.rows is None else self.rows.value_size

    @property
    def nbytes(self) -> int:
        """Bytes of the rows; the up-projections belong to the model."""
        return 0 if self.state.rows is None else self.state.rows.nbytes

    @property
    def storage(self) -> frozenset[str]:
        """Latents."""
        return frozenset({"latent"})

    def ups(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both up-projections in ``dtype``, converted once for those that stay as they are."""
        if self.up_k.dtype == dtype or self.up_k.requires_grad or self.up_v.requires_grad:
            return self.up_k.to(dtype), self.up_v.to(dtype)
        key = ("ups", dtype, self.up_k._version, self.up_v._version)
        if key not in self.remembered:
            self.remembered[key] = (self.up_k.to(dtype), self.up_v.to(dtype))
        return cast("tuple[Tensor, Tensor]", self.remembered[key])

    def expanded(self, dtype: torch.dtype, last: int | None = None) -> tuple[Tensor, Tensor]:
        """Keys ``[b..., head, token, d]`` and values ``[b..., head, token, e]`` of all tokens, or the ``last`` ones."""
        import torch

        view = self.view()
        held = cast("Tensor", view.keys)
        rows = (held if last is None else held[..., held.shape[-2] - last :, :]).to(dtype)
        latent, rotary = rows[..., : self.latent_size], rows[..., self.latent_size :]
        up_k, up_v = self.ups(dtype)
        content = latent.unsqueeze(-3) @ up_k.transpose(-1, -2)
        shared = rotary.unsqueeze(-3).expand(*content.shape[:-1], rotary.shape[-1])
        parts = (shared, content) if self.rotary == "first" else (content, shared)
        return torch.cat(parts, dim=-1), latent.unsqueeze(-3) @ up_v.transpose(-1, -2)

    def extend(
        self,
        k: Tensor,
        v: Tensor,
        positions: int | Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Writes latents (k) and rotary keys (v) behind the others, into a larger tensor where it is full."""
        import torch

        rows = self._checked(self.accept(k, v, lengths))
        used, count = self.length, k.shape[-2]
        standing = self.state.standing.extended(count, positions)
        both = torch.cat((k, v), dim=-1)
        slots = self.state.rows
        if slots is None:
            slots = Slots.room(rows.shared, max(LEAST, count), both, None)
        elif used + count > slots.num_slots:
            slots = slots.grown(max(used + count, 2 * slots.num_slots), used)
        slots.put(used, both)
        self.rows = rows
        self.state = State(slots, standing)

    def _checked(self, rows: Rows) -> Rows:
        if rows.feature_size != self.latent_size:
            raise SizeMismatch(
                f"append: latents have {rows.feature_size} features, and up_k takes {self.latent_size}.\n"
                "  In place of k, give the latents [b, j, latent]; in place of v the rotary keys."
            )
        if rows.dtype != self.up_k.dtype:
            raise DtypeError(
                f"append: latents are {rows.dtype}, and up_k is {self.up_k.dtype}.\n  Give both in one dtype."
            )
        if rows.device != self.up_k.device:
            raise DeviceError(f"append: latents are on {rows.device}, and up_k on {self.up_k.device}.\n  Move one.")
        return rows

    def view(self) -> View:
        """Rows ``[b..., token, latent + rotary]``, and the latents as values."""
        if self.state.rows is None:
            raise self.empty("spec(q, cache=)")
        rows = self.state.rows.data.narrow(-2, 0, self.length)
        return View(rows, rows[..., : self.latent_size], self.state.standing)

    def truncate(self, count: int) -> None:
        """Keeps the first ``count`` tokens."""
        kept = checked_count(self.kind, count, self.length)
        self.state = replace(self.state, standing=self.state.standing.cut(kept))

    def fork(self) -> Self:
        """A copy of the used rows, with the same up-projections."""
        twin = type(self)(self.up_k, self.up_v, rotary=cast('Literal["first", "last"]', self.rotary))
        if self.state.rows is not None:
            twin.state = replace(self.state, rows=self.state.rows.grown(max(LEAST, self.length), self.length))
        return self.adopt(twin)

    def reorder(self, index: Tensor | Sequence[int]) -> None:
        """The chosen sequences, copied."""
        chosen = self.sequences(index)
        if self.state.rows is None or self.rows is None:
            raise self.empty("reorder")
        self.state = State(self.state.rows.chosen(chosen), self.state.standing.chosen(chosen))
        self.rows = replace(self.rows, shared=(chosen.numel(), *self.rows.shared[1:]))

    def record(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The used rows; the up-projections are the model's."""
        found = recorded(self.state.rows, None, self.state.standing, self.length)
        return {"rotary": self.rotary, "latent_size": self.latent_size, "rotary_size": self.rotary_size}, found
