"""Reading a model's configuration, key by key, checked, with a record of what was used.

Knows what a whole number, a truth value and a list of them look like, and who gave each value. Refuses to know what a
key means for attention (``families``, ``blocks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from .. import limits
from ..errors import LimitError, ModelError

Config = Mapping[str, Any]


@dataclass(slots=True)
class Reader:
    """One configuration; ``used`` collects what was read, ``defaults`` stand in for keys that a class of models has.

    ``where`` names the configuration in messages; ``default_source`` says whose defaults those are.
    """

    config: Config
    where: str
    defaults: Config = field(default_factory=dict[str, Any])
    default_source: str = ""
    used: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: list[str] = field(default_factory=list[str])

    def get(self, *names: str) -> tuple[str, Any] | None:
        """The first of ``names`` that is there and not null, with its value; then the defaults; then None."""
        for name in names:
            value = self.config.get(name)
            if value is not None:
                self.used[name] = value
                return name, value
        for name in names:
            value = self.defaults.get(name)
            if value is not None:
                self.note(f"{name} is not in the config: {value}, the default of {self.default_source}")
                return name, value
        return None

    def note(self, text: str) -> None:
        """Says what the config left to its class; each once."""
        if text not in self.notes:
            self.notes.append(text)

    def whole(self, *names: str, least: int = 1) -> int | None:
        """The whole number under the first of ``names`` that is there; None where none is."""
        found = self.get(*names)
        return None if found is None else self.checked(found[0], found[1], least)

    def need(self, *names: str, what: str, least: int = 1) -> int:
        """As ``whole``, but it must be there. Raises ``ModelError`` that names ``what`` is missing."""
        value = self.whole(*names, least=least)
        if value is None:
            raise self.missing(what, *names)
        return value

    def window(self, *names: str) -> int | None:
        """A width that may be switched off: null, absent and numbers that are not positive are None."""
        found = self.get(*names)
        if found is None:
            return None
        width = self.checked(found[0], found[1], -limits.SIZE_COUNT)
        return width if width > 0 else None

    def flag(self, *names: str) -> bool | None:
        """The truth value under the first of ``names`` that is there."""
        found = self.get(*names)
        if found is None:
            return None
        name, value = found
        if not isinstance(value, bool):
            raise self.odd(name, value, "true or false")
        return value

    def items(self, *names: str) -> list[Any] | None:
        """The list under the first of ``names`` that is there."""
        found = self.get(*names)
        if found is None:
            return None
        name, value = found
        if not isinstance(value, list | tuple):
            raise self.odd(name, value, "a list")
        listed = list(cast("list[Any]", value))
        if len(listed) > limits.MODEL_LAYERS:
            raise LimitError(
                f"{name} in {self.where} has {len(listed):,} entries, and at most {limits.MODEL_LAYERS:,} layers are "
                "read."
            )
        return listed

    def per_layer(self, num_layers: int, *names: str, least: int = 0) -> list[int] | None:
        """A whole number for each layer, from one number or a list of them; None where it is absent."""
        found = self.get(*names)
        if found is None:
            return None
        name, value = found
        if not isinstance(value, list | tuple):
            return [self.checked(name, value, least)] * num_layers
        listed = list(cast("list[Any]", value))
        if len(listed) != num_layers:
            raise ModelError(
                f"{name} in {self.where} lists {len(listed)} values for {num_layers} layers.\n"
                "  Give one for each layer."
            )
        return [self.checked(name, item, least) for item in listed]

    def checked(self, name: str, value: object, least: int) -> int:
        """``value`` as a whole number from ``least`` on."""
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.odd(
                name, value, f"a whole number from {least} on" if least > -limits.SIZE_COUNT else "a whole number"
            )
        if value > limits.SIZE_COUNT:
            raise LimitError(f"{name} in {self.where} is beyond {limits.SIZE_COUNT}, the largest size that is counted.")
        return value

    def odd(self, name: str, value: object, expected: str) -> ModelError:
        """The error for a value that cannot be what its key says."""
        return ModelError(
            f"{name} in {self.where} is {_short(value)}, and {expected} is expected.\n"
            "  Correct the config, or copy it again."
        )

    def missing(self, what: str, *names: str) -> ModelError:
        """The error for what the config does not settle."""
        return ModelError(
            f"{self.where} does not settle {what}: it has no {' or '.join(names)}.\n"
            f"  Add {names[0]}; nothing is guessed."
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
