"""Patterns: what is read, what is refused, and that every refusal points at the place."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from qkv import limits
from qkv.coords.axes import Axis, Pattern
from qkv.coords.pattern import parse, parse_tensor
from qkv.errors import InternalError, LimitError, PatternError, QkvError

PLAIN = "b h i d, b h j d, b h j e -> b h i e"
GROUPED = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
USUAL = f"  Attention reads Q, K and V and gives one output: {PLAIN}"


def test_the_message_reader_notices_another_class_and_no_error(message):
    with pytest.raises(AssertionError, match="not LimitError"):
        message(LimitError, lambda: parse(""))
    with pytest.raises(pytest.fail.Exception):
        message(PatternError, lambda: parse(PLAIN))


def test_the_four_tensors():
    pattern = parse(GROUPED)
    assert pattern.query.coordinates == ("b", "h", "g", "i", "d")
    assert pattern.key.coordinates == ("b", "h", "j", "d")
    assert pattern.value.coordinates == ("b", "h", "j", "e")
    assert pattern.output.coordinates == ("b", "h", "g", "i", "e")
    assert list(pattern.tensors) == ["q", "k", "v", "output"]
    assert pattern.tensors["q"] is pattern.query
    assert pattern.query.merged == (("h", "g"),)
    assert pattern.key.merged == ()
    assert pattern.coordinates == ("b", "h", "g", "i", "d", "j", "e")


def test_a_tensor_with_every_kind_of_axis():
    tensor = parse_tensor("..b (head g_1) 1 seq_q _d")
    assert [axis.names for axis in tensor.axes] == [("b",), ("head", "g_1"), (), ("seq_q",), ("_d",)]
    assert [axis.rest for axis in tensor.axes] == [True, False, False, False, False]
    assert tensor.coordinates == ("..b", "head", "g_1", "seq_q", "_d")
    assert tensor.rests == ("b",)
    assert str(tensor) == "..b (head g_1) 1 seq_q _d"


def test_a_parenthesis_around_one_name_is_that_axis():
    assert parse_tensor("(h) d") == parse_tensor("h d")


def test_the_empty_tensor_has_no_axes():
    assert parse_tensor("  ").axes == ()


def test_spaces_do_not_matter_to_equality_or_hash():
    spaced = parse(" b  h i d,b h j d ,\tb h\nj e->b h i e ")
    assert spaced == parse(PLAIN)
    assert hash(spaced) == hash(parse(PLAIN))
    assert spaced != parse(GROUPED)
    assert str(spaced) == PLAIN


def test_equal_texts_give_the_same_object():
    assert parse(PLAIN) is parse("".join(PLAIN))
    assert parse_tensor("b h") is parse_tensor("b h")


def test_places_are_those_of_the_whole_text():
    pattern = parse(GROUPED)
    for tensor, name, place in [
        ("q", "h", (3, 4)),
        ("q", "g", (5, 6)),
        ("k", "d", (19, 20)),
        ("output", "e", (43, 44)),
    ]:
        assert pattern.place(tensor, name) == place
        assert GROUPED[place[0] : place[1]] == name
    assert parse_tensor("..b hh (h g)").place("h") == (8, 9)
    assert parse_tensor("x ..b").place("..b") == (2, 5)


def test_a_place_that_is_not_there_is_a_fault_of_ours():
    with pytest.raises(InternalError, match="please report"):
        parse(PLAIN).place("q", "j")


def test_pickled_patterns_are_equal_in_another_process():
    # Hashes of texts differ between processes, so a stored one must not travel.
    code = (
        "import pickle, sys; from qkv.coords.pattern import parse\n"
        f"p = pickle.loads(sys.stdin.buffer.read()); assert {{p: 1}}[parse({GROUPED!r})] == 1; print(p)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(parse(GROUPED)), capture_output=True, check=False
    )
    assert done.stdout.decode().strip() == GROUPED, done.stderr.decode()


def test_rests_expand_everywhere():
    pattern = parse("..b i d, ..b j d, ..b j e -> ..b i e")
    assert pattern.rests == ("b",)
    two = pattern.expand({"b": 2})
    assert two.text == "b.0 b.1 i d, b.0 b.1 j d, b.0 b.1 j e -> b.0 b.1 i e"
    assert two.rests == ()
    assert two.key.coordinates == ("b.0", "b.1", "j", "d")
    start, end = two.place("k", "b.1")
    assert two.text[start:end] == "b.1"
    assert pattern.expand({"b": 0}) == parse("i d, j d, j e -> i e")
    assert pattern.expand({"c": 3}) is pattern
    assert parse(PLAIN).expand({"b": 2}) is parse(PLAIN)


def test_a_tensor_expands_alone():
    tensor = parse_tensor("h ..b d")
    assert tensor.expand({"b": 2}).coordinates == ("h", "b.0", "b.1", "d")
    assert tensor.expand({"b": 0}).text == "h d"
    assert tensor.expand({}) is tensor


def test_expanded_names_cannot_be_typed(message):
    lines = message(PatternError, lambda: parse_tensor("b.0 i"))
    assert lines[0] == '".0" is not a rest with a name.'


def test_patterns_can_be_made_of_names_and_renamed():
    pattern = Pattern.of(("i", "d"), ("j", "d"), ("j", "e"), ("i", "e"))
    assert pattern == parse("i d, j d, j e -> i e")
    assert pattern.text == "i d, j d, j e -> i e"
    renamed = parse(GROUPED).rename({"h": "head", "d": "e", "e": "d"})
    assert str(renamed) == "b (head g) i e, b head j e, b head j d -> b (head g) i d"
    assert renamed.text[slice(*renamed.place("k", "head"))] == "head"


def test_axes_print_as_they_are_written():
    assert [str(Axis(names)) for names in ((), ("h",), ("h", "g"))] == ["1", "h", "(h g)"]
    assert str(Axis(("b",), rest=True)) == "..b"


# Text, headline, the stretch of the text under the carets (None: one place after the end), and the advice.
WRONG_TENSORS = [
    ("b (h g", '"(" is never closed.', "(", '  Put ")" where the merged axis ends: (h g)'),
    ("b h g) d", '")" closes nothing.', ")", '  Put "(" where the merged axis begins, or take ")" out.'),
    (
        "b () d",
        "these parentheses are empty.",
        "()",
        "  An axis of size one is written 1; a merged axis names its coordinates, major first: (h g)",
    ),
    ("b ((h g) k)", "parentheses inside parentheses.", "(h", "  A merged axis is one list, major to minor: (a b c)"),
    ("(..b h) d", "a rest cannot be part of a merged axis.", "..", "  Name the coordinates that are merged: (a b h)"),
    (
        "(h 1) d",
        '"1" inside parentheses changes nothing.',
        "1",
        "  Leave it out, or write it as an axis of its own.",
    ),
    (
        "b h b",
        '"b" stands twice in the tensor.',
        "b",
        "  Each axis of a tensor has its own name, even where two lengths agree.",
    ),
    (
        "..b ..c d",
        "the tensor has two rests, so nothing says which axes belong to which.",
        "..c",
        "  One tensor has at most one rest; name the other axes one by one.",
    ),
    (
        "... d",
        '"..." is not a rest with a name.',
        "...",
        "  A rest is two dots and a name, and stands for zero or more coordinates: ..b",
    ),
    (
        "...batch d",
        '"...batch" is not a rest with a name.',
        "...batch",
        "  A rest is two dots and a name, and stands for zero or more coordinates: ..batch",
    ),
    (
        ".. x",
        '".." is not a rest with a name.',
        "..",
        "  A rest is two dots and a name, and stands for zero or more coordinates: ..b",
    ),
    (
        "..1 x",
        '"..1" is not a rest with a name.',
        "..1",
        "  A rest is two dots and a name, and stands for zero or more coordinates: ..b",
    ),
    (
        "b 2 d",
        '"2" is not a name.',
        "2",
        "  Names begin with a letter or _; the only number is 1, an axis of size one. A size is given beside the "
        'pattern: sizes={"h": 8}',
    ),
    (
        "b seq-q d",
        "'-' cannot stand in a pattern.",
        "-",
        f"  A pattern has names of letters, digits and _, and ( ) .. , -> between them: {PLAIN}",
    ),
    (
        "b é d",
        "'é' cannot stand in a pattern.",
        "é",
        f"  A pattern has names of letters, digits and _, and ( ) .. , -> between them: {PLAIN}",
    ),
    (
        "b h, d",
        '"," inside the pattern of one tensor.',
        ",",
        '  One tensor is named here: its axes with spaces between them, such as "b h i d"',
    ),
    (
        "b -> d",
        '"->" inside the pattern of one tensor.',
        "->",
        '  One tensor is named here: its axes with spaces between them, such as "b h i d"',
    ),
    (
        "(b, d)",
        '"," inside the pattern of one tensor.',
        ",",
        '  One tensor is named here: its axes with spaces between them, such as "b h i d"',
    ),
]


def carets(text: str, part: str, last: bool = False) -> str:
    start = text.rindex(part) if last else text.index(part)
    return "    " + " " * start + "^" * len(part)


@pytest.mark.parametrize(("text", "headline", "part", "advice"), WRONG_TENSORS, ids=[w[0] for w in WRONG_TENSORS])
def test_a_wrong_tensor(text, headline, part, advice, message):
    lines = message(PatternError, lambda: parse_tensor(text))
    # A name that stands twice is pointed at where it stands again, and nested parentheses at the inner one.
    place = carets(text, part, last="twice" in headline or "inside parentheses." in headline)
    if part == "(h":
        place = place[:-1]
    assert lines == [headline, f"    {text}", place, advice]


WRONG_PATTERNS = [
    ("", 'the pattern has no "->".', (0, 1), f"  Write the output's axes after an arrow: {PLAIN}"),
    ("b i d, b j d, b j e", 'the pattern has no "->".', (19, 20), f"  Write the output's axes after an arrow: {PLAIN}"),
    (
        "b -> c -> d",
        'the pattern has more than one "->".',
        (7, 9),
        f"  Three tensors, one arrow, one output: {PLAIN}",
    ),
    ("b i d -> b i d", 'the pattern has 1 tensor before "->", and attention reads three.', (6, 8), USUAL),
    ("i d, j d -> i", 'the pattern has 2 tensors before "->", and attention reads three.', (9, 11), USUAL),
    ("i d, j d, j e, k -> i e", 'the pattern has 4 tensors before "->", and attention reads three.', (13, 14), USUAL),
    ("i d, j d, j e -> i e, i", 'the pattern has more than one output after "->".', (20, 21), USUAL),
    (", j d, j e -> i e", "Q has no axes.", (0, 1), USUAL),
    ("i d, , j e -> i e", "K has no axes.", (5, 6), USUAL),
    ("i d, j d, -> i e", "V has no axes.", (10, 11), USUAL),
    ("i d, j d, j e ->", "the output has no axes.", (16, 17), USUAL),
    (
        "i i d, j d, j e -> i e",
        '"i" stands twice in Q.',
        (2, 3),
        "  Each axis of a tensor has its own name, even where two lengths agree.",
    ),
    (
        "i d, j d, j e -> i (i e)",
        '"i" stands twice in the output.',
        (20, 21),
        "  Each axis of a tensor has its own name, even where two lengths agree.",
    ),
    (
        "..b i d, b j d, ..b j e -> ..b i e",
        '"b" is one coordinate here, and "..b" is a rest elsewhere in the pattern.',
        (9, 10),
        "  Write ..b in every tensor that carries the rest, and give the coordinate another name.",
    ),
    ("i d, j (d, j e -> i e", '"," inside the pattern of one tensor.', (9, 10), None),
]


@pytest.mark.parametrize(("text", "headline", "place", "advice"), WRONG_PATTERNS, ids=[w[0] for w in WRONG_PATTERNS])
def test_a_wrong_pattern(text, headline, place, advice, message):
    lines = message(PatternError, lambda: parse(text))
    if advice is None:  # a comma ends a tensor, so the parenthesis before it is what is wrong
        headline, place, advice = '"(" is never closed.', (7, 8), '  Put ")" where the merged axis ends: (h g)'
    start, end = place
    assert lines == [headline, f"    {text}", "    " + " " * start + "^" * (end - start), advice]


def test_blanks_of_any_kind_keep_the_carets_in_place(message):
    lines = message(PatternError, lambda: parse_tensor("b\n\th ?"))
    assert lines[1:3] == ["    b  h ?", "         ^"]


def test_a_long_text_is_cut_around_the_place(message):
    text = " ".join(f"n{number}" for number in range(100, 130)) + " ? " + " ".join(f"m{n}" for n in range(100, 130))
    lines = message(PatternError, lambda: parse_tensor(text))
    assert len(lines[1]) <= 4 + 100 + 6
    assert lines[1][4:7] == "..." == lines[1][-3:]
    assert lines[1][lines[2].index("^")] == "?"


def test_a_text_that_is_none(message):
    for given in (None, 3, ("b", "h"), b"b h"):
        for read in (parse, parse_tensor):
            lines = message(PatternError, lambda given=given, read=read: read(given))
            assert lines == [
                f"a pattern is a text, and this is {given!r} of type {type(given).__name__}.",
                f'  Write it as a string: "{PLAIN}"',
            ]


def test_no_rest_where_each_must_be_named(message):
    assert parse_tensor("b h", allow_rest=False).coordinates == ("b", "h")
    lines = message(PatternError, lambda: parse_tensor("b ..h d", allow_rest=False))
    assert lines == [
        '"..h" stands for an unknown number of coordinates, and here each one must be named.',
        "    b ..h d",
        "      ^^^",
        "  Name the axes one by one.",
    ]


def test_limit_of_characters(message):
    assert parse_tensor("b" + " " * (limits.PATTERN_CHARACTERS - 1)).coordinates == ("b",)
    lines = message(LimitError, lambda: parse_tensor("b" + " " * limits.PATTERN_CHARACTERS))
    assert lines[0] == "the pattern has 4097 characters, and at most 4096 are read."
    assert lines[2] == f'  A pattern names axes: "{PLAIN}". Was another text given in its place?'


def test_limit_of_a_name(message):
    longest = "n" * limits.NAME_CHARACTERS
    assert parse_tensor(longest).coordinates == (longest,)
    for text in (longest + "n", f"..{longest}n", f"({longest}n h)"):
        lines = message(LimitError, lambda text=text: parse_tensor(text))
        assert lines[0] == "a coordinate's name has 65 characters, and at most 64 are read."
        assert lines[3] == "  Give it a shorter name."


def test_limit_of_axes(message):
    most = " ".join(f"n{number}" for number in range(limits.AXES_PER_TENSOR))
    assert len(parse_tensor(most).axes) == limits.AXES_PER_TENSOR
    assert len(parse_tensor(f"({most})").coordinates) == limits.AXES_PER_TENSOR
    lines = message(LimitError, lambda: parse_tensor(f"{most} more"))
    assert lines[0] == "the tensor has more than 32 coordinates."
    lines = message(LimitError, lambda: parse_tensor(f"({most} more)"))
    assert lines[0] == "the tensor has more than 32 coordinates."
    lines = message(LimitError, lambda: parse_tensor("1 " * 33))
    assert lines[0] == "the tensor has more than 32 axes, and torch's kernels stop near that."
    assert lines[3] == "  Merge axes before the call."


def test_a_failure_is_not_remembered_as_a_success():
    for _ in range(2):
        with pytest.raises(QkvError):
            parse("b h i")
