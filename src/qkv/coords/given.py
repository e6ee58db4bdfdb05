"""Named tensors given to a call: matched to its pattern by name, laid out as it says, and named again at the end.

Knows names only, so two sequences are never taken for one because their lengths agree. It does not know roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from qkv.coords.axes import Pattern, TensorPattern
from qkv.coords.named import Named
from qkv.coords.text import point, quoted, sized
from qkv.errors import CoordinateError

if TYPE_CHECKING:
    from torch import Tensor

    from qkv.coords.sizes import Solved

_ARGUMENT: Final = {"q": 1, "k": 2, "v": 3}


def pattern_of(q: Named, k: Named, v: Named) -> Pattern:
    """The pattern that three named tensors make when none is written.

    The output carries Q's coordinates but the feature, then those that only V has, in its order. When no coordinate is
    a feature, the output is laid out as Q is. Roles are checked where every pattern's are.

    >>> q, k, v = (Named(torch.ones(2, 3), names) for names in ("i d", "j d", "j e"))
    >>> str(pattern_of(q, k, v))
    'i d, j d, j e -> i e'
    """
    feature = [name for name in q.names if name in k.names and name not in v.names]
    own = [name for name in v.names if name not in q.names and name not in k.names]
    output = [name for name in q.names if name not in feature] + own
    return Pattern.of(q.names, k.names, v.names, output)


def arrange(pattern: Pattern, given: Mapping[str, Named]) -> tuple[Pattern, dict[str, Tensor]]:
    """The pattern with its rests named as the tensors name them, and the tensors of ``"q"``, ``"k"``, ``"v"`` in order.

    Each must carry exactly the coordinates that the pattern gives it, in any order. A rest takes the names that are
    left over, which must be the same ones in every tensor with that rest. A merged axis is merged from its parts; an
    axis ``1`` is added. Raises CoordinateError, naming the argument; sizes are checked by ``solve``.
    """
    rests: dict[str, tuple[str, ...]] = {}
    for argument, named in given.items():
        tensor = pattern.tensors[argument]
        own = [name for axis in tensor.axes if not axis.rest for name in axis.names]
        missing = [name for name in own if name not in named.names]
        left = tuple(name for name in named.names if name not in own)
        if missing or (left and not tensor.rests):
            raise _differ(pattern, argument, named, missing, left)
        for rest in tensor.rests:
            if set(rests.setdefault(rest, left)) != set(left):
                raise _rests_differ(pattern, argument, named, rest, rests[rest], left)
    written = pattern.expand({rest: len(names) for rest, names in rests.items()})
    written = written.rename({f"{rest}.{n}": name for rest, names in rests.items() for n, name in enumerate(names)})
    return written, {argument: _laid_out(written.tensors[argument], named) for argument, named in given.items()}


def name_output(solved: Solved, tensor: Tensor) -> Named:
    """The output of a call under its names: merged axes parted again, an axis ``1`` dropped."""
    axes = solved.pattern.output.axes
    names = [name for axis in axes for name in axis.names]
    return Named(tensor.reshape([solved.sizes[name] for name in names]), names)


def _laid_out(tensor: TensorPattern, named: Named) -> Tensor:
    result = named.order(*tensor.coordinates).tensor
    for place, axis in enumerate(tensor.axes):
        if not axis.names:
            result = result.unsqueeze(place)
        elif len(axis.names) > 1:
            result = result.flatten(place, place + len(axis.names) - 1)
    return result


def _shown(argument: str, named: Named) -> str:
    return f"    {argument}: {sized(named.sizes)}   (argument {_ARGUMENT[argument]})"


def _differ(
    pattern: Pattern, argument: str, named: Named, missing: list[str], left: tuple[str, ...]
) -> CoordinateError:
    if missing:
        headline = f"{argument} does not carry {quoted(missing)}, which the pattern asks of it."
        carets = point(pattern.text, *pattern.place(argument, missing[0]))
    else:
        headline = f"{argument} carries {quoted(left)}, which the pattern does not give it."
        axes = pattern.tensors[argument].axes
        carets = point(pattern.text, axes[0].start, axes[-1].end)
    if len(missing) == 1 and len(left) == 1:
        advice = f'Equal lengths do not make "{left[0]}" be "{missing[0]}"; if it is meant, write '
        advice += f'{argument}.rename({left[0]}="{missing[0]}")'
    elif missing:
        advice = f"Give a tensor with the coordinates {quoted(pattern.tensors[argument].coordinates)}."
    else:
        advice = f"Add {'it' if len(left) == 1 else 'them'} to the pattern, or choose with {argument}.at(...)."
    return CoordinateError(f"{headline}\n{carets}\n{_shown(argument, named)}\n  {advice}")


def _rests_differ(
    pattern: Pattern, argument: str, named: Named, rest: str, first: tuple[str, ...], left: tuple[str, ...]
) -> CoordinateError:
    names = [quoted(each) or "nothing" for each in (first, left)]
    return CoordinateError(
        f"..{rest} stands for {names[0]} elsewhere, and for {names[1]} in {argument}.\n"
        f"{point(pattern.text, *pattern.place(argument, f'..{rest}'))}\n{_shown(argument, named)}\n"
        f"  A rest stands for the same coordinates wherever it is written."
    )
