"""The least time a step can take on a machine: the larger of computing and moving, layer by layer.

Knows one division of integers by published or measured rates. Refuses to promise that a program is that fast, and to
count what is not attention. Source: Williams, Waterman and Patterson 2009, Roofline, CACM 52(4).
"""

from __future__ import annotations

from dataclasses import dataclass

from .description import Model
from .format import Format, to_format
from .hardware import Hardware, hardware
from .step import ModelWork, flops
from .work import Convention, LatentForm, Work


@dataclass(frozen=True, slots=True)
class Roof:
    """The time of one step: ``compute_s`` and ``memory_s`` are the sums of the layers' terms, ``seconds`` the sum of
    the larger of the two in each layer.
    """

    hardware: str
    flops: int
    bytes: int
    compute_s: float
    memory_s: float
    seconds: float

    @property
    def bound(self) -> str:
        """Which term binds: ``"compute"`` or ``"memory"``."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


@dataclass(frozen=True, slots=True)
class Times:
    """A prompt of ``context`` tokens, and one more token after it, for the whole batch."""

    model: str
    hardware: Hardware
    context: int
    batch: int
    dtype: str
    prefill: Roof
    decode: Roof


def roof(works: ModelWork | Work, machine: Hardware | str, dtype: str | Format = "bf16") -> Roof:
    """The least time of ``works`` on ``machine``: for each layer ``max(flops / rate, bytes / bandwidth)``.

    ``dtype`` says which rate of products counts. Raises ``SpecError`` for a machine without one.

    >>> from qkv.size.flops import layer_work, multi_head_layer
    >>> found = roof(layer_work(multi_head_layer(4096, 32, 8), 4096, 8192, 1), "h100")
    >>> found.bound, found.bytes
    ('memory', 117493760)
    """
    place, element = hardware(machine), to_format(dtype)
    rate = place.rate(element.name)
    layers = works.layers if isinstance(works, ModelWork) else (works,)
    compute = [work.flops / rate for work in layers]
    memory = [work.bytes / place.bytes_per_s for work in layers]
    longest = sum(max(pair) for pair in zip(compute, memory, strict=True))
    return Roof(
        place.name,
        sum(work.flops for work in layers),
        sum(work.bytes for work in layers),
        sum(compute),
        sum(memory),
        longest,
    )


def times(
    model: Model,
    context: int | str,
    machine: Hardware | str,
    *,
    batch: int | str = 1,
    dtype: str | Format = "bf16",
    convention: Convention | str = "exact",
    latent: LatentForm | str | None = None,
    source: int | str = 0,
) -> Times:
    """The least time of the attention layers of ``model`` for a prompt, and for one decoded token after it.

    Arguments as of ``flops``. Weights are those of the attention's projections; those of MLPs and experts are not here.

    >>> import qkv
    >>> found = times(qkv.size.model("llama-3-8b"), 8192, "h100")
    >>> found.prefill.bound, found.decode.bound
    ('compute', 'memory')
    """
    place = hardware(machine)
    whole = flops(model, context, batch=batch, convention=convention, latent=latent, dtype=dtype, source=source)
    one = flops(
        model, context, queries=1, batch=batch, convention=convention, latent=latent, dtype=dtype, source=source
    )
    element = to_format(dtype)
    return Times(
        model.name, place, whole.keys, whole.batch, element.name, roof(whole, place, element), roof(one, place, element)
    )
