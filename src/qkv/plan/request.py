"""What the planner is asked: one call by its spec, sizes and circumstances, without its tensors.

A request is frozen and hashable: the same request gives the same plan. It knows sizes and flags; it refuses to know
values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..spec import Lowered, Spec


@dataclass(frozen=True, slots=True)
class Request:
    """One call as the planner sees it.

    ``sizes`` are (coordinate, size) pairs; ``relation`` says where queries stand: ``"equal"`` (same number, same
    positions), ``"offset"`` (a constant distance) or ``"given"`` (tensors); None when no part compares positions.
    ``finite`` is True when k and v were seen to hold no NaN and no infinity, None when nobody looked. ``transformed``
    says that a torch.func transform is active, ``derivatives`` how many of them are reverse derivatives, and
    ``forward_mode`` that a forward derivative is taken. ``storage`` says how a cache holds the keys where they are no
    ordinary tensors (``"ring"``, ``"paged"``, ``"quantized"``), ``invariant`` that bits must not depend on the pages.
    ``latent``: the latent and the rotary size, where keys and values would be rebuilt from a latent cache.
    """

    spec: Spec
    lowered: Lowered = field(compare=False)
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    device: str
    want: frozenset[str]
    requires_grad: bool
    captured_grad: bool
    transformed: bool
    relation: str | None
    dropout: float
    finite: bool | None = None
    derivatives: int = 0
    forward_mode: bool = False
    storage: frozenset[str] = frozenset()
    invariant: bool = False
    latent: tuple[int, int] = (0, 0)

    def size(self, *names: str) -> int:
        """The product of the coordinates' sizes; 1 for none."""
        known = dict(self.sizes)
        return math.prod(known[name] for name in names)

    @property
    def num_shared(self) -> int:
        """How many independent problems there are: the product of the shared sizes."""
        return self.size(*self.lowered.shared)

    @property
    def num_rows(self) -> int:
        """How many query rows each of them has: the product of the query-only sizes."""
        return self.size(*self.lowered.query_order)

    @property
    def num_keys(self) -> int:
        """How many keys each of them has."""
        return self.size(*self.lowered.key)

    @property
    def feature_size(self) -> int:
        """The product of the contracted features' sizes."""
        return self.size(*self.lowered.features)

    @property
    def value_size(self) -> int:
        """The product of the value features' sizes."""
        return self.size(*self.lowered.value_features)

    @property
    def pairs(self) -> int:
        """How many pairs of a query row and a key there are, kept or not."""
        return self.num_shared * self.num_rows * self.num_keys

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of q, k and v."""
        return {"float64": 8, "float32": 4}.get(self.dtype, 2)
