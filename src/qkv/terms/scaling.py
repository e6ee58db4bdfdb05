"""Scalings of rotary frequencies: how a model trained on short sequences reads positions of longer ones.

Each scaling is frozen data that turns the base ``theta``, the number of rotated features and the sequence length into
angular frequencies, and says by what cosines and sines are multiplied. Plain Python numbers, no tensors. This module
refuses to know what is rotated and where anything stands (``position``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InternalError, SpecError


def plain_frequencies(theta: float, size: int) -> tuple[float, ...]:
    """The unscaled frequencies theta ** (-2k / size) of the ``size // 2`` pairs (RoFormer, section 3.2.2)."""
    return tuple(theta ** (-2.0 * k / size) for k in range(size // 2))


@dataclass(frozen=True, slots=True)
class Scaling:
    """What every scaling can be asked; the defaults are those of one that ignores the length."""

    @property
    def attention_factor(self) -> float:
        """The number by which cosines and sines are multiplied."""
        return 1.0

    def effective_length(self, length: int) -> int:
        """The length as far as it matters here: equal numbers give equal frequencies."""
        del length
        return 0

    def frequencies(self, theta: float, size: int, length: int) -> tuple[float, ...]:
        """The frequency of each pair of the ``size`` rotated features, for a sequence of ``length`` positions."""
        raise InternalError(f"{type(self).__name__} does not say what its frequencies are; please report this")


@dataclass(frozen=True, slots=True)
class Linear(Scaling):
    """Every frequency divided by ``factor``."""

    factor: float

    def __post_init__(self) -> None:
        _positive("linear", factor=self.factor)

    def frequencies(self, theta: float, size: int, length: int) -> tuple[float, ...]:
        """The plain frequencies over the factor."""
        return tuple(f / self.factor for f in plain_frequencies(theta, size))


@dataclass(frozen=True, slots=True)
class Proportional(Scaling):
    """The pairs span the whole feature, and those beyond the rotated fraction have frequency 0."""

    factor: float

    def __post_init__(self) -> None:
        _positive("proportional", factor=self.factor)

    def frequencies(self, theta: float, size: int, length: int) -> tuple[float, ...]:
        """The plain frequencies over the factor; the rope, which knows the fraction, sets the others to 0."""
        return tuple(f / self.factor for f in plain_frequencies(theta, size))


@dataclass(frozen=True, slots=True)
class DynamicNTK(Scaling):
    """A base that grows with the length, once that exceeds ``original_length``."""

    factor: float
    original_length: int

    def __post_init__(self) -> None:
        _positive("dynamic_ntk", factor=self.factor)
        _length("dynamic_ntk", self.original_length)

    def effective_length(self, length: int) -> int:
        """The length, not below the original one."""
        return max(length, self.original_length)

    def frequencies(self, theta: float, size: int, length: int) -> tuple[float, ...]:
        """The plain frequencies of the grown base."""
        if size < 4:
            raise SpecError(
                f"dynamic_ntk cannot rotate {size} features.\n  Its exponent size / (size - 2) needs at least 4."
            )
        stretch = self.factor * self.effective_length(length) / self.original_length - (self.factor - 1.0)
        return plain_frequencies(theta * stretch ** (size / (size - 2)), size)


@dataclass(frozen=True, slots=True)
class Yarn(Scaling):
    """Fast pairs as they are, slow ones divided by ``factor``, a linear ramp between."""

    factor: float
    original_length: int
    beta_fast: float
    beta_slow: float
    given_attention_factor: float | None
    mscale: float | None
    mscale_all_dim: float | None
    truncate: bool

    def __post_init__(self) -> None:
        _positive("yarn", factor=self.factor, beta_fast=self.beta_fast, beta_slow=self.beta_slow)
        _length("yarn", self.original_length)
        for name in ("given_attention_factor", "mscale", "mscale_all_dim"):
            value = getattr(self, name)
            if value is not None:
                _positive("yarn", **{name.removeprefix("given_"): value})
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise SpecError(
                f"yarn: mscale is {self.mscale} and mscale_all_dim is {self.mscale_all_dim}.\n"
                "  Only their ratio is used: give both, or neither, or attention_factor."
            )

    @property
    def attention_factor(self) -> float:
        """The one given, else the ratio of the two mscales, else 0.1 ln(factor) + 1 (YaRN, equation 22)."""
        if self.given_attention_factor is not None:
            return self.given_attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1.0)

    def _mscale(self, weight: float) -> float:
        return 1.0 if self.factor <= 1.0 else 0.1 * weight * math.log(self.factor) + 1.0

    def frequencies(self, theta: float, size: int, length: int) -> tuple[float, ...]:
        """The ramp between extrapolated and interpolated frequencies (YaRN, section 3.2)."""
        if theta <= 1.0:
            raise SpecError(
                f"yarn with theta = {theta}: the logarithm of theta divides here.\n  theta must be above 1."
            )

        def pair_with(rotations: float) -> float:
            """The (fractional) pair that turns ``rotations`` times within the original length."""
            return size * math.log(self.original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair_with(self.beta_fast), pair_with(self.beta_slow)
        if self.truncate:
            low, high = float(math.floor(low)), float(math.ceil(high))
        low, high = max(low, 0.0), min(high, size - 1.0)
        width = high - low if high != low else 0.001
        slow = [min(max((k - low) / width, 0.0), 1.0) for k in range(size // 2)]
        return tuple(
            f / self.factor * s + f * (1 - s) for f, s in zip(plain_frequencies(theta, size), slow, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Llama3(Scaling):
    """Pairs of long wavelength divided by ``factor``, of short wavelength as they are, a smooth step between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int

    def __post_init__(self) -> None:
        _positive(
            "llama3", factor=self.factor, low_freq_factor=self.low_freq_factor, high_freq_factor=self.high_freq_factor
        )
        _length("llama3", self.original_length)
        if self.high_freq_factor <= self.low_freq_factor:
            raise SpecError(
                f"llama3: high_freq_factor = {self.high_freq_factor:g}, low_freq_factor = {self.low_freq_factor:g}.\n"
                "  The first must be above the second; Llama 3.1 has low_freq_factor=1, high_freq_factor=4."
            )

    def frequencies(self, theta: float, size: int, length: int) -> tuple[float, ...]:
        """The step, by how often a pair turns within the original length."""
        return tuple(self._scaled(f) for f in plain_frequencies(theta, size))

    def _scaled(self, frequency: float) -> float:
        turns = self.original_length * frequency / (2 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = min(max(smooth, 0.0), 1.0)
        return (1 - smooth) * frequency / self.factor + smooth * frequency


@dataclass(frozen=True, slots=True)
class LongRope(Scaling):
    """One divisor for each pair, from one list up to ``original_length`` positions and from another beyond."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_length: int
    factor: float | None
    given_attention_factor: float | None

    def __post_init__(self) -> None:
        _length("longrope", self.original_length)
        if len(self.short_factor) != len(self.long_factor):
            raise SpecError(
                f"longrope: short_factor has {len(self.short_factor)} numbers, long_factor {len(self.long_factor)}.\n"
                "  Each needs one for every rotated pair."
            )
        for name, values in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            for k, value in enumerate(values):
                _positive("longrope", **{f"{name}[{k}]": value})
        for name, value in (("factor", self.factor), ("attention_factor", self.given_attention_factor)):
            if value is not None:
                _positive("longrope", **{name: value})
        if self.factor is None and self.given_attention_factor is None:
            raise SpecError(
                "longrope: neither factor nor attention_factor is given.\n"
                "  factor is the ratio of the model's longest to its original length: factor=131072 / 4096."
            )

    @property
    def attention_factor(self) -> float:
        """The one given, else sqrt(1 + ln(factor) / ln(original_length))."""
        if self.given_attention_factor is not None:
            return self.given_attention_factor
        factor = self.factor or 1.0
        return 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(self.original_length))

    def effective_length(self, length: int) -> int:
        """Only whether the length exceeds the original one."""
        return self.original_length + (length > self.original_length)

    def frequencies(self, theta: float, size: int, length: int) -> tuple[float, ...]:
        """The plain frequencies, each over its divisor."""
        divisors = self.long_factor if length > self.original_length else self.short_factor
        if len(divisors) != size // 2:
            raise SpecError(
                f"longrope: {len(divisors)} factors for {size // 2} pairs ({size} rotated features).\n"
                "  Give one factor for every rotated pair; check fraction= and the feature size."
            )
        return tuple(f / d for f, d in zip(plain_frequencies(theta, size), divisors, strict=True))


def linear(factor: float) -> Scaling:
    """Return the scaling that divides every frequency by ``factor`` (position interpolation, arXiv 2306.15595).

    Raises ``SpecError`` unless the factor is finite and positive.

    >>> linear(4.0).frequencies(10000.0, 4, 0)
    (0.25, 0.0025)
    """
    return Linear(factor)


def proportional(factor: float = 1.0) -> Scaling:
    """Return the scaling of Gemma 4: pairs over the whole feature, those beyond ``rope(fraction=)`` left alone.

    Unlike a plain ``fraction``, exponents count the whole feature size and partners lie half of it apart.
    Raises ``SpecError`` unless the factor is finite and positive.
    """
    return Proportional(factor)


def dynamic_ntk(factor: float, original_length: int) -> Scaling:
    """Return the scaling whose base grows with the sequence length beyond ``original_length``.

    A call uses the largest key position + 1 as the length; keys kept from earlier calls must be kept unrotated.
    Raises ``SpecError`` for a factor that is not finite and positive. Source: transformers' ``dynamic``.
    """
    return DynamicNTK(factor, original_length)


def yarn(
    factor: float,
    original_length: int,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    attention_factor: float | None = None,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
    truncate: bool = True,
) -> Scaling:
    """Return YaRN: fast pairs kept, slow pairs interpolated, a ramp between, and sharper attention (arXiv 2309.00071).

    ``attention_factor`` multiplies cosines and sines; without it the two ``mscale`` (DeepSeek) or 0.1 ln(factor) + 1
    decide. ``truncate=False`` leaves the ramp's ends fractional (gpt-oss).
    Raises ``SpecError`` for numbers that are not finite and positive, and for one ``mscale`` without the other.

    >>> round(yarn(4.0, 4096).attention_factor, 4)
    1.1386
    """
    return Yarn(
        factor,
        original_length,
        beta_fast,
        beta_slow,
        attention_factor,
        mscale,
        mscale_all_dim,
        truncate,
    )


def llama3(factor: float, low_freq_factor: float, high_freq_factor: float, original_length: int) -> Scaling:
    """Return the scaling of Llama 3.1: long wavelengths divided by ``factor``, short ones kept, a smooth step between.

    Raises ``SpecError`` for numbers that are not finite and positive, or ``high_freq_factor <= low_freq_factor``.
    """
    return Llama3(factor, low_freq_factor, high_freq_factor, original_length)


def longrope(
    short_factor: Sequence[float],
    long_factor: Sequence[float],
    original_length: int,
    *,
    factor: float | None = None,
    attention_factor: float | None = None,
) -> Scaling:
    """Return LongRoPE: one divisor for each pair, one list up to ``original_length`` and one beyond (arXiv 2402.13753).

    Without ``attention_factor`` cosines and sines are multiplied by sqrt(1 + ln(factor) / ln(original_length)).
    Raises ``SpecError`` for lists of wrong length, for numbers that are not finite and positive, and without both
    factors.
    """
    short, long = tuple(float(x) for x in short_factor), tuple(float(x) for x in long_factor)
    return LongRope(short, long, original_length, factor, attention_factor)


def _positive(owner: str, **numbers: float) -> None:
    for name, value in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not number or not math.isfinite(value) or value <= 0:
            raise SpecError(f"{owner}: {name} = {value!r}.\n  It must be a finite number above 0.")


def _length(owner: str, original_length: int) -> None:
    whole = isinstance(original_length, int) and not isinstance(original_length, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not whole or original_length < 2:
        raise SpecError(
            f"{owner}: original_length = {original_length!r}.\n  It must be a whole number of positions, at least 2."
        )
