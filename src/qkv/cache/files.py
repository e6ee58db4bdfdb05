"""Caches as safetensors files: written whole, and checked in everything when they are read.

A file may be damaged or made by somebody else, so nothing in it is believed: settings, sizes, types and bounds are
compared before a cache is made of it. This module knows files; the kinds know what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import CacheError, QkvError
from .codec import BITS, width
from .dense import Dense, Quantized
from .dense import State as DenseState
from .latent import Latent
from .latent import State as LatentState
from .newest import Recent
from .paged import Paged
from .pool import PagePool
from .protocol import Cache, Rows
from .recurrent import Recurrent
from .recurrent import State as RecurrentState
from .ring import Ring
from .ring import State as RingState
from .slots import Slots
from .standing import Standing

if TYPE_CHECKING:
    import os

    import torch
    from torch import Tensor

FORMAT = "qkv cache 1"

MOST_TOKENS = 1 << 48
MOST_RECENT = 1 << 16
"""Tokens held as they came too, for which a file makes room."""


def save(cache: Cache, path: str | os.PathLike[str]) -> None:
    """Writes the cache. Raises ``CacheError`` when safetensors is missing, or keys were turned by a rotation whose
    scaling a file does not hold.
    """
    writer = _package("safetensors.torch").save_file
    settings, tensors = cache.record()
    rows = cache.rows
    about: dict[str, Any] = {
        "format": FORMAT,
        "kind": cache.kind,
        "settings": settings,
        "first": cache.standing.first,
        "count": cache.standing.count,
        "shared": None if rows is None else list(rows.shared),
        "feature_size": None if rows is None else rows.feature_size,
        "value_size": None if rows is None else rows.value_size,
        "dtype": None if rows is None else str(rows.dtype).removeprefix("torch."),
        "features": {name: [list(pair) for pair in pairs] for name, pairs in cache.features.items()},
        "turned": None if cache.seal is None else repr(cache.seal),
    }
    writer({name: x.detach().contiguous().clone() for name, x in tensors.items()}, path, {"qkv": json.dumps(about)})


def load(
    path: str | os.PathLike[str],
    *,
    up_k: Tensor | None = None,
    up_v: Tensor | None = None,
    pool: PagePool | None = None,
    device: str | torch.device = "cpu",
) -> Cache:
    """The cache that ``save`` wrote: of the same kind, with the same bits.

    ``up_k``, ``up_v``: the up-projections of a latent cache, which belong to the model. ``pool``: where a paged cache
    puts its pages; a new one where absent. The rotation of the first call afterwards must be the one before. Raises
    ``CacheError`` for a file that is damaged, of another format, or that does not fit what it says of itself.

    >>> import qkv, tempfile, torch
    >>> cache = qkv.cache.Dense()
    >>> cache.append(torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache.save(f"{folder}/cache.safetensors")
    ...     twin = qkv.cache.load(f"{folder}/cache.safetensors")
    >>> twin.length
    5
    """
    file = _read(path, device)
    makers: dict[str, Callable[[File], Cache]] = {
        "dense": _dense,
        "quantized": _dense,
        "ring": _ring,
        "recurrent": _recurrent,
        "paged": lambda each: _paged(each, pool),
        "latent": lambda each: _latent(each, up_k, up_v),
    }
    if file.kind not in makers:
        raise _damaged(path, f"its kind is {file.kind!r:.40}")
    if file.kind == "latent" and (up_k is None or up_v is None):
        raise CacheError("load: a latent cache needs its up-projections.\n  Give up_k= and up_v=, as to Latent.")
    try:
        cache = makers[file.kind](file)
    except QkvError:
        raise
    except (MemoryError, RuntimeError) as error:  # torch says with the latter that memory is short
        raise _damaged(path, f"what it asks for cannot be allocated: {error}") from error
    if file.tensors:
        raise _damaged(path, f"it holds {', '.join(sorted(file.tensors))} beside what its kind has")
    cache.features = file.features()
    cache.turned = file.text("turned")
    return cache


@dataclass(slots=True)
class File:
    """What was read: every question to it raises ``CacheError`` where the answer is not what it must be."""

    path: Any
    about: Mapping[str, Any]
    settings: Mapping[str, Any]
    tensors: dict[str, Tensor]

    @property
    def kind(self) -> str:
        """Which kind of cache it says it is."""
        return str(self.about.get("kind"))

    def fail(self, reason: str) -> CacheError:
        """The error."""
        return _damaged(self.path, reason)

    def number(self, source: Mapping[str, Any], name: str, least: int = 0, most: int = MOST_TOKENS) -> int:
        """A whole number within bounds."""
        value = source.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.fail(f"{name} = {value!r:.40} is no whole number from {least} to {most}")
        return value

    def maybe(self, source: Mapping[str, Any], name: str, least: int = 1) -> int | None:
        """The same, or None."""
        return None if source.get(name) is None else self.number(source, name, least)

    def text(self, name: str) -> str | None:
        """A text, or None."""
        value = self.about.get(name)
        if value is not None and not isinstance(value, str):
            raise self.fail(f"{name} = {value!r:.40} is no text")
        return value

    def bits(self) -> int | None:
        """8, 4 or None."""
        value = self.settings.get("bits")
        if value is not None and (isinstance(value, bool) or value not in BITS):
            raise self.fail(f"bits = {value!r:.40}")
        return None if value is None else int(value)

    def rows(self) -> Rows | None:
        """Sizes and type of rows; None for a cache that holds nothing."""
        import torch

        if self.about.get("shared") is None:
            return None
        shared: Any = self.about["shared"]
        if not isinstance(shared, list) or len(cast("list[object]", shared)) > 32:
            raise self.fail(f"shared = {shared!r:.40}")
        listed = cast("list[object]", shared)
        sizes = tuple(self.number({"shared": n}, "shared") for n in listed)
        dtype = {
            str(x).removeprefix("torch."): x for x in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        }
        if self.about.get("dtype") not in dtype:
            raise self.fail(f"dtype = {self.about.get('dtype')!r:.40}")
        name = cast("str", self.about["dtype"])
        device = next((x.device for x in self.tensors.values()), torch.device("cpu"))
        return Rows(
            sizes, self.number(self.about, "feature_size"), self.number(self.about, "value_size"), dtype[name], device
        )

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of that shape and type."""
        found = self.tensors.pop(name, None)
        if found is None:
            raise self.fail(f'it lacks "{name}"')
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise self.fail(
                f'"{name}" is {found.dtype} of shape {tuple(found.shape)}, and should be {dtype} of shape {shape}'
            )
        return found

    def slots(self, name: str, lead: tuple[int, ...], count: int, size: int, rows: Rows, bits: int | None) -> Slots:
        """Keys or values with as many slots as tokens; codes within their bounds."""
        import torch

        kind = rows.dtype if bits is None else torch.int8 if bits == 8 else torch.uint8
        data = self.take(name, (*lead, count, width(size, bits)), kind)
        scale = None if bits is None else self.take(f"{name}.scale", (*lead, count), torch.float32)
        if scale is not None:
            codes = data.to(torch.int16)
            sound = (codes != -128) if bits == 8 else ((codes & 15) > 0) & ((codes >> 4) > 0)
            # what nobody wrote is 0 with the scale 0
            unused = (codes == 0) & (scale == 0).unsqueeze(-1)
            if not bool((sound | unused).all()) or bool((scale < 0).any()) or bool(torch.isinf(scale).any()):
                raise self.fail(f'"{name}" holds codes or scales out of bounds')
        return Slots(data, scale, bits, size, rows.dtype)

    def standing(self, count: int, rows: Rows | None) -> Standing:
        """Where tokens stand."""
        import torch

        if self.number(self.about, "count") != count:
            raise self.fail(f"it counts {self.about.get('count')} tokens, and holds {count}")
        first = self.number(self.about, "first", -MOST_TOKENS)
        given = self.tensors.get("positions")
        if given is None:
            return Standing(count, first)
        shape = (count,) if given.dim() == 1 or rows is None or not rows.shared else (rows.shared[0], count)
        return Standing(count, first, self.take("positions", shape, torch.int64))

    def features(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """The names of merged features."""
        found: Any = self.about.get("features")
        try:
            made = {str(name): tuple((str(n), int(s)) for n, s in pairs) for name, pairs in found.items()}
        except (AttributeError, TypeError, ValueError):
            raise self.fail(f"features = {found!r:.40}") from None
        if set(made) - {"k", "v"}:
            raise self.fail(f"features = {found!r:.40}")
        return made


def _dense(file: File) -> Cache:
    capacity, bits, rows = file.maybe(file.settings, "capacity"), file.bits(), file.rows()
    if (bits is None) != (file.kind == "dense"):
        raise file.fail(f"bits = {bits!r} in a {file.kind} cache")
    window = file.number(file.settings, "recent", most=MOST_RECENT) if "recent" in file.settings else 0
    cache = Dense(capacity) if bits is None else Quantized(bits, capacity, window)
    count = file.number(file.about, "count")
    if capacity is not None and count > capacity:
        raise file.fail(f"it holds {count} tokens and has a capacity of {capacity}")
    if rows is None:
        cache.state = DenseState(standing=file.standing(0, None))
        return cache
    keys = file.slots("keys", rows.shared, count, rows.feature_size, rows, bits)
    values = file.slots("values", rows.shared, count, rows.value_size, rows, bits)
    standing = file.standing(count, rows)
    room = capacity if capacity is not None else max(count, 16)
    recent = _recent(file, rows, window, count) if cache.recent else None
    cache.state = DenseState(keys.grown(room, count), values.grown(room, count), standing, recent)
    cache.rows = rows
    return cache


def _recent(file: File, rows: Rows, window: int, count: int) -> Recent:
    held = file.number(file.settings, "newest", most=min(window, count))
    keys = file.take("keys.newest", (*rows.shared, held, rows.feature_size), rows.dtype)
    values = file.take("values.newest", (*rows.shared, held, rows.value_size), rows.dtype)
    return Recent.restored(keys, values, window, count)


def _ring(file: File) -> Cache:
    window, spare = file.number(file.settings, "window", 1), file.number(file.settings, "spare")
    bits, rows, seen = file.bits(), file.rows(), file.number(file.settings, "seen")
    cache = Ring(window, spare=spare, bits=bits)
    held = file.number(file.about, "count", most=min(seen, window + spare))
    if rows is None:
        cache.state = RingState(standing=file.standing(0, None))
        return cache
    keys = file.slots("keys", rows.shared, held, rows.feature_size, rows, bits)
    values = file.slots("values", rows.shared, held, rows.value_size, rows, bits)
    standing = file.standing(held, rows)
    room = window + 2 * spare + 1
    cache.state = RingState(keys.grown(room, held), values.grown(room, held), 0, seen, standing)
    cache.rows = rows
    return cache


def _paged(file: File, pool: PagePool | None) -> Cache:
    size, bits, rows = file.number(file.settings, "page_size", 1), file.bits(), file.rows()
    made = PagePool(size, num_pages=file.maybe(file.settings, "num_pages"), bits=bits) if pool is None else pool
    if made.bits != bits:
        raise CacheError(f"load: the file has bits = {bits!r}, and the pool {made.bits!r}.\n  Give a pool of the same.")
    lengths: Any = file.settings.get("lengths")
    if not isinstance(lengths, list):
        raise file.fail(f"lengths = {lengths!r:.40}")
    each = tuple(file.number({"lengths": n}, "lengths") for n in cast("list[object]", lengths))
    cache = Paged(made)
    if rows is None or not rows.shared:
        file.standing(0, None)
        return cache
    if len(each) != rows.shared[0]:
        raise file.fail(f"it has {len(each)} lengths for {rows.shared[0]} sequences")
    count = max(each, default=0)
    keys = file.slots("keys", rows.shared, count, rows.feature_size, rows, bits)
    values = file.slots("values", rows.shared, count, rows.value_size, rows, bits)
    standing = file.standing(count, rows)
    if standing.given is not None and len(set(each)) > 1:
        raise file.fail("it has positions, and sequences of different lengths")
    cache.fill(rows, keys, values, each, standing)
    return cache


def _latent(file: File, up_k: Tensor | None, up_v: Tensor | None) -> Cache:
    if up_k is None or up_v is None:
        raise CacheError("load: a latent cache needs its up-projections.\n  Give up_k= and up_v=, as to Latent.")
    rotary: Any = file.settings.get("rotary")
    if rotary not in ("first", "last"):
        raise file.fail(f"rotary = {rotary!r:.40}")
    cache, rows = Latent(up_k, up_v, rotary=rotary), file.rows()
    count = file.number(file.about, "count")
    if rows is None:
        cache.state = LatentState(None, file.standing(0, None))
        return cache
    if rows.feature_size != cache.latent_size or rows.dtype != up_k.dtype:
        raise file.fail(
            f"its latents are {rows.feature_size} features of {rows.dtype}, and up_k takes {cache.latent_size} of "
            f"{up_k.dtype}"
        )
    slots = file.slots("keys", rows.shared, count, rows.feature_size + rows.value_size, rows, None)
    cache.state = LatentState(slots.grown(max(count, 16), count), file.standing(count, rows))
    cache.rows = rows
    return cache


def _recurrent(file: File) -> Cache:
    import torch

    cache, rows = Recurrent(), file.rows()
    seen, fades = file.number(file.settings, "seen"), file.settings.get("fades")
    if not isinstance(fades, bool):
        raise file.fail(f"fades = {fades!r:.40}")
    standing = file.standing(seen, rows)
    if rows is None:
        return cache
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    found = file.tensors.get("memory")
    shape: tuple[int, ...] = () if found is None else tuple(found.shape)
    good = len(shape) >= len(rows.shared) + 2 and shape[: len(rows.shared)] == rows.shared
    if not good or shape[-1:] != (rows.value_size,):
        raise file.fail(f'"memory" has the shape {shape}')
    memory = file.take("memory", shape, dtype)
    cache.state = RecurrentState(memory, file.take("total", (*shape[:-1], 1), dtype), standing, fades)
    cache.rows = rows
    return cache


def _read(path: Any, device: Any) -> File:
    """The file as data. Everything that the package raises for a damaged one becomes ``CacheError``."""
    package = _package("safetensors")
    try:
        with package.safe_open(path, framework="pt", device=str(device)) as file:
            said = cast("dict[str, str]", file.metadata() or {})
            about: Any = json.loads(said["qkv"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, KeyError, TypeError, RecursionError, package.SafetensorError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(about, dict) or cast("dict[str, Any]", about).get("format") != FORMAT:
        raise _damaged(path, "it was not written by qkv, or by another version")
    known = cast("dict[str, Any]", about)
    settings: Any = known.get("settings")
    if not isinstance(settings, dict):
        raise _damaged(path, f"settings = {settings!r:.40}")
    return File(path, known, cast("dict[str, Any]", settings), tensors)


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module("safetensors") if name == "safetensors" else import_module("safetensors.torch")
    except ImportError:
        raise CacheError(
            "saving and loading caches needs the package safetensors.\n  Install it: pip install safetensors."
        ) from None


def _damaged(path: Any, reason: str) -> CacheError:
    return CacheError(f"load: {path} is no cache that can be used: {reason:.200}.\n  Save it again.")
