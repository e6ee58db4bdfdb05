"""What must hold for every pattern and every layout, tried on generated ones."""

from __future__ import annotations

import string

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qkv.coords.named import Named, where
from qkv.coords.pattern import parse, parse_tensor
from qkv.coords.roles import Roles, roles
from qkv.coords.sizes import solve
from qkv.errors import LimitError, PatternError, QkvError

NAMES = list("abcdefghij")
ROLES = ("feature", "key", "value_feature", "shared", "query_only")
CARRIED = {"feature": "qk", "key": "kv", "value_feature": "vo", "shared": "qkvo", "query_only": "qo"}


@st.composite
def assignments(draw: st.DrawFn) -> dict[str, str]:
    """A role for each of some names, at least one of each that is needed."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(3, 8))]
    others = [draw(st.sampled_from(ROLES)) for _ in names[3:]]
    return dict(zip(names, ["feature", "key", "value_feature", *others], strict=True))


@st.composite
def patterns(draw: st.DrawFn, role: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """The text of a pattern that has roles, in drawn orders and with drawn merges, and the role of each name."""
    role = draw(assignments()) if role is None else role
    tensors: list[str] = []
    for tensor in "qkvo":
        names = draw(st.permutations([name for name in role if tensor in CARRIED[role[name]]]))
        axes: list[list[str]] = []
        for name in names:
            if axes and draw(st.integers(0, 3)) == 0:
                axes[-1].append(name)
            else:
                axes.append([name])
        tensors.append(" ".join(axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in axes))
    return f"{tensors[0]}, {tensors[1]}, {tensors[2]} -> {tensors[3]}", role


def members(found: Roles) -> dict[str, str]:
    return {name: role for role in ROLES for name in getattr(found, role)}


@given(patterns())
def test_roles_are_those_that_made_the_pattern(drawn):
    text, role = drawn
    assert members(roles(parse(text))) == role


@given(st.data())
def test_order_and_merging_change_no_role(data):
    text, role = data.draw(patterns())
    other, _ = data.draw(patterns(role))
    assert members(roles(parse(text))) == members(roles(parse(other)))


@given(patterns(), st.permutations(NAMES))
def test_consistent_renaming_renames_the_roles(drawn, names):
    text, role = drawn
    new = dict(zip(NAMES, names, strict=True))
    renamed = parse(text).rename(new)
    assert parse(str(renamed)) == renamed
    assert members(roles(renamed)) == {new[name]: kind for name, kind in role.items()}


@given(patterns())
def test_printing_and_reading_is_the_identity(drawn):
    pattern = parse(drawn[0])
    assert parse(str(pattern)) == pattern
    for tensor, part in pattern.tensors.items():
        for name in part.coordinates:
            start, end = pattern.place(tensor, name)
            assert drawn[0][start:end] == name


def shapes_of(text: str, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    tensors = parse(text).tensors
    return {t: tuple(_product(sizes[name] for name in axis.names) for axis in tensors[t].axes) for t in "qkv"}


def _product(numbers) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


@given(patterns(), st.lists(st.integers(1, 7), min_size=len(NAMES), max_size=len(NAMES)))
def test_solving_finds_the_sizes_that_made_the_shapes(drawn, numbers):
    text, role = drawn
    sizes = {name: number for name, number in zip(NAMES, numbers, strict=True) if name in role}
    shapes = shapes_of(text, sizes)
    assert solve(parse(text), shapes, sizes).sizes == sizes
    try:
        found = solve(parse(text), shapes).sizes
    except QkvError as error:
        assert "cannot be solved" in str(error)
        return
    assert found == sizes


@given(st.data())
def test_layout_changes_no_size(data):
    text, role = data.draw(patterns())
    other, _ = data.draw(patterns(role))
    numbers = data.draw(st.lists(st.integers(1, 7), min_size=len(role), max_size=len(role)))
    sizes = dict(zip(role, numbers, strict=True))
    found = [solve(parse(each), shapes_of(each, sizes), sizes).sizes for each in (text, other)]
    assert found[0] == found[1]


@given(st.lists(st.lists(st.sampled_from("abijde"), min_size=1, max_size=4, unique=True), min_size=4, max_size=4))
def test_equal_sizes_give_the_verdicts_of_distinct_sizes(names):
    """A wrong pattern is as wrong with sizes that agree: names decide, never lengths."""
    text = "{}, {}, {} -> {}".format(*map(" ".join, names))
    verdicts: list[str] = []
    for sizes in (dict.fromkeys("abijde", 4), dict(zip("abijde", (2, 3, 5, 7, 11, 13), strict=True))):
        try:
            solve(parse(text), shapes_of(text, sizes))
            verdicts.append("right")
        except PatternError as error:
            verdicts.append(str(error))
    assert verdicts[0] == verdicts[1]


WRONG = [
    "b h i d, b h i d, b h i d -> b h i d",
    "b h i d, b h j d, b h i e -> b h i e",
    "b h i d, b h j d, b h j e -> b h j e",
    "b h i d, b h j e, b h j d -> b h i d",
    "b i h d, b h j d, b h j e -> b i e",
    "b h i d, b j d, b h j e -> b h i e",
]


@pytest.mark.parametrize("text", WRONG)
def test_planted_mistakes_are_caught_with_every_size_equal(text):
    for sizes in ((4, 4, 4, 4), (2, 3, 5, 7)):
        pattern = parse(text)
        shapes = {
            tensor: tuple(sizes[:1] * len(part.axes)) if len(set(sizes)) == 1 else sizes[: len(part.axes)]
            for tensor, part in pattern.tensors.items()
        }
        with pytest.raises(PatternError):
            solve(pattern, shapes)


PIECES = [
    "b",
    "h",
    "(",
    ")",
    "..",
    "...",
    ".",
    "1",
    "0",
    ",",
    "->",
    "-",
    ">",
    " ",
    "\n",
    "seq_q",
    "é",
    "\x00",
    "\uff11",
]


def read_anything(text: str) -> None:
    for read in (parse, parse_tensor, lambda t: roles(parse(t)), lambda t: parse_tensor(t, allow_rest=False)):
        try:
            read(text)
        except (PatternError, LimitError) as error:
            message = str(error)
            assert "\n" in message
            assert len(message) < 4000 + 12 * len(text)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@example("(" * 200)
@example(".." * 100)
@example("->" * 100)
@example("a" * 5000)
@example(" ".join(string.ascii_letters))
def test_pieces_of_patterns_are_read_or_refused(text):
    read_anything(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    read_anything(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    read_anything(data.decode("latin-1"))
    read_anything(data.decode("utf-8", "surrogateescape"))
    with pytest.raises(PatternError):
        parse(data)  # pyright: ignore[reportArgumentType]


@given(patterns(), st.data())
def test_one_changed_character_is_read_or_refused(drawn, data):
    text = drawn[0]
    place = data.draw(st.integers(0, len(text) - 1))
    read_anything(text[:place] + data.draw(st.sampled_from(PIECES)) + text[place + 1 :])


# Named tensors: any layout of the same tensors, and torch on aligned axes as the judge.


@st.composite
def tensors(draw: st.DrawFn, number: int = 2) -> list[Named]:
    """Some named tensors over shared names with small sizes, each in its own order."""
    sizes = {name: draw(st.integers(0, 3)) for name in "abcd"}
    made: list[Named] = []
    for _ in range(number):
        names = draw(st.permutations([*"abcd"]))[: draw(st.integers(0, 4))]
        shape = [sizes[name] for name in names]
        seed = draw(st.integers(0, 2**31))
        made.append(Named(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), names))
    return made


def as_in(x: Named, names: tuple[str, ...]) -> torch.Tensor:
    """The tensor with exactly these axes, of size one where it lacks the name: written apart from the library."""
    own = [name for name in names if name in x.names]
    tensor = x.tensor.permute([x.names.index(name) for name in own]) if own else x.tensor
    return tensor.reshape([x.tensor.shape[x.names.index(name)] if name in own else 1 for name in names])


@given(tensors())
def test_arithmetic_is_broadcasting_by_name(pair):
    x, y = pair
    names = tuple(dict.fromkeys(x.names + y.names))
    for result, expected in (
        (x + y, as_in(x, names) + as_in(y, names)),
        (x * y, as_in(x, names) * as_in(y, names)),
        (x - y, as_in(x, names) - as_in(y, names)),
        (x < y, as_in(x, names) < as_in(y, names)),
        (x.maximum(y), torch.maximum(*torch.broadcast_tensors(as_in(x, names), as_in(y, names)))),
    ):
        assert result.names == names
        assert torch.equal(result.tensor, expected)


@given(tensors(3))
def test_where_is_broadcasting_by_name(three):
    x, y, z = three
    result = where(x > 0, y, z)
    names = result.names
    assert torch.equal(result.tensor, torch.where(as_in(x, names) > 0, as_in(y, names), as_in(z, names)))


@given(tensors(), st.data())
def test_dot_is_einsum(pair, data):
    x, y = pair
    shared = [name for name in x.names if name in y.names]
    assume(shared)
    over = data.draw(st.lists(st.sampled_from(shared), min_size=1, unique=True))
    result = x.dot(y, *over)
    formula = f"{''.join(x.names)},{''.join(y.names)}->{''.join(result.names)}"
    assert torch.allclose(result.tensor, torch.einsum(formula, x.tensor, y.tensor), atol=1e-5)
    assert torch.allclose(result.tensor, (x * y).sum(*over).order(*result.names).tensor, atol=1e-5)


def program(x: Named, y: Named) -> Named:
    """Something of everything that keeps, adds and drops coordinates; no step depends on the order of axes."""
    total = (x * y + 1).exp()
    weights = total.softmax(*total.names) if total.names else total
    return (weights - y).mean(*[name for name in x.names if name not in y.names]) + x.sum().relu()


@given(tensors(), st.data())
def test_the_declared_order_of_a_tensor_changes_no_result(pair, data):
    expected = program(*pair)
    result = program(*[each.order(*data.draw(st.permutations(each.names))) for each in pair])
    assert torch.allclose(result.order(*expected.names).tensor, expected.tensor, atol=1e-5, equal_nan=True)


@given(tensors(), st.permutations([*"abcdefgh"]))
def test_renaming_consistently_changes_no_result(pair, names):
    new = dict(zip("abcd", names, strict=False))
    x, y = pair
    renamed = [each.rename({name: new[name] for name in each.names}) for each in pair]
    expected, result = program(x, y), program(*renamed)
    assert result.names == tuple(new[name] for name in expected.names)
    assert torch.allclose(result.tensor, expected.tensor, equal_nan=True)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_split_and_merge_are_inverse(sizes, data):
    parts = [f"p{n}" for n in range(len(sizes))]
    x = Named(torch.randn(2, _product(sizes), 3), "a m c")
    x = x.order(*data.draw(st.permutations(x.names)))
    left_open = data.draw(st.sampled_from(parts))
    given_sizes = {part: size for part, size in zip(parts, sizes, strict=True) if part != left_open}
    apart = x.split("m", " ".join(parts), **given_sizes)
    assert [apart.size(part) for part in parts] == sizes
    shuffled = apart.order(*data.draw(st.permutations(apart.names)))
    again = shuffled.merge(" ".join(parts), into="m").order(*x.names)
    assert torch.equal(again.tensor, x.tensor)


@given(tensors(1), st.data())
def test_reductions_drop_what_is_named(one, data):
    x = one[0]
    assume(x.names)
    over = data.draw(st.lists(st.sampled_from(x.names), min_size=1, unique=True))
    rest = tuple(name for name in x.names if name not in over)
    for name in ("sum", "mean", "max", "logsumexp", "prod"):
        assert getattr(x, name)(*over).names == rest
        again = x
        for each in over:
            again = getattr(again, name)(each)
        if name != "mean" or 0 not in x.tensor.shape:
            assert torch.allclose(getattr(x, name)(*over).tensor, again.tensor, atol=1e-4)


@given(tensors(1), st.data())
def test_softmax_sums_to_one_or_to_nothing(one, data):
    x = one[0]
    assume(x.names)
    over = data.draw(st.lists(st.sampled_from(x.names), min_size=1, unique=True))
    keep = x > 0
    total, kept = x.softmax(*over, where=keep).sum(*over), keep.any(*over)
    assert torch.allclose(total.tensor, kept.tensor.float())
    assert x.softmax(*over, where=keep).where(~keep, 0).tensor.eq(0).all()
