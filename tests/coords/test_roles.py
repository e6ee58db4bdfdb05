"""Roles: the five rules, the one convention, and an error for each combination of tensors that is no rule."""

from __future__ import annotations

import itertools

import pytest

from qkv.coords.pattern import parse
from qkv.coords.roles import roles
from qkv.errors import PatternError

PLAIN = "b h i d, b h j d, b h j e -> b h i e"


def test_scaled_dot_product():
    found = roles(parse(PLAIN))
    assert found.feature == ("d",)
    assert found.key == ("j",)
    assert found.value_feature == ("e",)
    assert found.shared == ("b", "h")
    assert found.query_only == ("i",)
    assert not found.tied
    assert found.query_candidates == ("i",)
    assert found.key_candidates == ("j",)
    assert found.groups == {}


def test_the_table_of_the_design():
    found = roles(parse("b g h i d, b h j d, b h j e -> b g h i e"))
    assert (found.feature, found.key, found.value_feature) == (("d",), ("j",), ("e",))
    assert (found.shared, found.query_only) == (("b", "h"), ("g", "i"))
    assert found.query_candidates == ("g", "i"), "not merged with a shared one, so either may be the sequence"


def test_grouped_queries_are_not_a_sequence():
    found = roles(parse("b (h g) i d, b h j d, b h j e -> b (h g) i e"))
    assert found.groups == {"h": ("g",)}
    assert found.query_only == ("g", "i")
    assert found.query_candidates == ("i",)


def test_group_before_the_shared_one_and_merged_in_the_output_only():
    assert roles(parse("b (g h) i d, b h j d, b h j e -> b i (g h) e")).groups == {"h": ("g",)}
    assert roles(parse("b g h i d, b h j d, b h j e -> b i (h g) e")).query_candidates == ("i",)


def test_a_merged_pair_of_query_only_coordinates_stays_candidates():
    assert roles(parse("b (x y) d, b j d, b j e -> b x y e")).query_candidates == ("x", "y")


def test_three_in_one_axis_group_both_shared_ones():
    found = roles(parse("(b h g) i d, b h j d, b h j e -> b h g i e"))
    assert found.groups == {"b": ("g",), "h": ("g",)}
    assert found.query_candidates == ("i",)


def test_multi_query():
    found = roles(parse("b h i d, b j d, b j e -> b h i e"))
    assert (found.shared, found.query_only, found.query_candidates) == (("b",), ("h", "i"), ("h", "i"))


def test_several_features_keys_and_value_features_are_in_the_order_of_their_tensors():
    found = roles(parse("y x d1 d2, j2 d2 j1 d1, e2 j1 e1 j2 -> x y e1 e2"))
    assert found.feature == ("d1", "d2")
    assert found.key == ("j2", "j1")
    assert found.value_feature == ("e2", "e1")
    assert found.query_only == ("y", "x")


def test_rests_have_roles():
    found = roles(parse("..b i d, ..b j d, ..b j e -> ..b i e"))
    assert found.shared == ("..b",)
    keys = roles(parse("i d, ..j d, ..j e -> i e"))
    assert keys.key == ("..j",)


def test_one_query_needs_no_query_coordinate():
    assert roles(parse("b d, b j d, b j e -> b e")).query_only == ()


def test_one_letter_for_both_features():
    found = roles(parse("b h i d, b h j d, b h j d -> b h i d"))
    assert found.tied
    assert found.feature == found.value_feature == ("d",)
    assert found.shared == ("b", "h")


def test_the_tied_letter_may_close_a_merged_axis():
    found = roles(parse("b i (h d), b j (h d), b j (h d) -> b i (h d)"))
    assert found.tied
    assert (found.feature, found.shared) == (("d",), ("b", "h"))


def test_a_tied_letter_beside_another_value_feature():
    found = roles(parse("i d, j d, j e d -> i e d"))
    assert found.tied
    assert (found.feature, found.value_feature) == (("d",), ("e", "d"))


def test_a_coordinate_last_in_all_is_shared_where_there_is_another_feature():
    found = roles(parse("i c d, j c d, j e d -> i e d"))
    assert not found.tied
    assert (found.feature, found.value_feature, found.shared) == (("c",), ("e",), ("d",))


def test_a_rest_is_never_tied(message):
    lines = message(PatternError, lambda: roles(parse("i ..d, j ..d, j ..d -> i ..d")))
    assert lines[0] == "no coordinate stands in Q and K alone, so scores contract over nothing."


def test_the_same_letter_for_queries_and_keys(message):
    lines = message(PatternError, lambda: roles(parse("b h i d, b h i d, b h i d -> b h i d")))
    assert lines == [
        '"i" stands in both Q and K, so nothing tells queries from keys.',
        "    b h i d, b h i d, b h i d -> b h i d",
        "                 ^",
        "  Self-attention still has two coordinates: b h i d, b h j d, b h j e -> b h i e",
    ]


def test_queries_that_stand_among_the_keys(message):
    lines = message(PatternError, lambda: roles(parse("b h i d, b h i j d, b h j e -> b h i e")))
    assert lines == [
        '"i" and "j" both stand in K, so nothing tells queries from keys.',
        "    b h i d, b h i j d, b h j e -> b h i e",
        "                 ^",
        "    Q:      b h i d",
        "    K:      b h i j d",
        "    V:      b h j e",
        "    output: b h i e",
        '  Add "i" to V as well, so that all four share it, or take it out of K if only queries have it.',
    ]


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("b i h d, b i h d, b i h d -> b i h d", "b i h d, b j h d, b j h e -> b i h e"),
        ("b h i d, b h i d, b h i e -> b h i e", "b h i d, b h j d, b h j e -> b h i e"),
        ("b seq d, b seq d, b seq d -> b seq d", "b seq d, b seq_k d, b seq_k e -> b seq e"),
        (
            "..b seq_q c, ..b seq_q c, ..b seq_q c -> ..b seq_q c",
            "..b seq_q c, ..b seq_k c, ..b seq_k c_v -> ..b seq_q c_v",
        ),
        ("b t d, b t d, b t d -> b t d", "b t d, b t_k d, b t_k e -> b t e"),
        ("j i d, j i d, j i d -> j i d", "j i d, j i_k d, j i_k e -> j i e"),
        ("i e d, i e d, i e d -> i e d", "i e d, j e d, j e d_v -> i e d_v"),
        ("(b i) d, (b i) d, (b i) d -> (b i) d", "(b i) d, (b j) d, (b j) e -> (b i) e"),
    ],
)
def test_the_pattern_that_is_offered_has_roles(text, instead, message):
    lines = message(PatternError, lambda: roles(parse(text)))
    assert lines[-1] == f"  Self-attention still has two coordinates: {instead}"
    found = roles(parse(instead))
    assert (len(found.key), len(found.query_only)) == (1, 1)


def test_no_key_at_all(message):
    lines = message(PatternError, lambda: roles(parse("b i d, b d, b e -> b i e")))
    assert lines == [
        "no coordinate stands in K and V alone, so there are no keys to choose among.",
        "    b i d, b d, b e -> b i e",
        "    ^^^^^^^^^^^^^^^^^^^^^^^^",
        "    Q:      b i d",
        "    K:      b d",
        "    V:      b e",
        "    output: b i e",
        f"  Give K and V a coordinate that Q and the output lack: {PLAIN}",
    ]


def test_no_feature(message):
    lines = message(PatternError, lambda: roles(parse("b i, b j, b j e -> b i e")))
    assert lines[0] == "no coordinate stands in Q and K alone, so scores contract over nothing."
    assert lines[3:7] == ["    Q:      b i", "    K:      b j", "    V:      b j e", "    output: b i e"]
    assert lines[7] == f"  Give Q and K a feature that V and the output lack, or let all four end in one: {PLAIN}"


def test_no_value_feature(message):
    lines = message(PatternError, lambda: roles(parse("b i d, b j d, b j -> b i")))
    assert lines[0] == "no coordinate stands in V and the output alone, so the values carry nothing."
    assert lines[-1] == f"  Give V and the output a coordinate that Q and K lack, even of size 1: {PLAIN}"


BASE = ("b i d", "b j d", "b j e", "b i e")
SPOKEN = ("Q", "K", "V", "the output")
RULES = {("Q", "K"), ("K", "V"), ("V", "the output"), ("Q", "the output"), SPOKEN}
COMBINATIONS = [
    chosen for size in range(1, 5) for chosen in itertools.combinations(SPOKEN, size) if chosen not in RULES
]
ADVICE = {
    ("Q",): 'Add "x" to K to contract over it, or to the output to keep it.',
    ("K",): 'Add "x" to V if it is a key coordinate, or to Q if scores contract over it.',
    ("V",): 'Add "x" to K if it is a key coordinate, or to the output if values carry it.',
    ("the output",): 'No input carries "x", so the output cannot: add it to Q or to V, or take it out of the output.',
    ("Q", "V"): 'Scores contract Q with K: take "x" out of V and add it to K, or name it in all four tensors.',
    ("K", "the output"): 'A key coordinate is summed and never returned: take "x" out of the output and add it to V, '
    "or name it in all four tensors.",
    ("Q", "K", "V"): 'Nothing that all inputs share is summed unless that is said: add "x" to the output, or take it '
    "out of V to contract over it, or out of Q if it is the key coordinate.",
    ("Q", "K", "the output"): 'Add "x" to V as well, so that all four share it, or take it out of K if only queries '
    "have it.",
    ("Q", "V", "the output"): 'Add "x" to K as well, so that all four share it, or take it out of V if only queries '
    "have it.",
    ("K", "V", "the output"): 'A key coordinate is summed and never returned: take "x" out of the output, or add it to '
    "Q so that all four share it.",
}


def with_x(chosen: tuple[str, ...]) -> str:
    q, k, v, o = (f"x {base}" if name in chosen else base for name, base in zip(SPOKEN, BASE, strict=True))
    return f"{q}, {k}, {v} -> {o}"


@pytest.mark.parametrize("chosen", COMBINATIONS, ids="-".join)
def test_every_combination_that_is_no_role(chosen, message):
    text = with_x(chosen)
    lines = message(PatternError, lambda: roles(parse(text)))
    missing = [name for name in SPOKEN if name not in chosen]
    first, second = (
        names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" for names in (list(chosen), missing)
    )
    only = "only " if len(chosen) == 1 else ""
    lack = "lacks" if len(missing) == 1 else "lack"
    assert lines[0] == f'"x" stands {only}in {first}, which is no role: {second} {lack} it.'
    assert lines[1] == f"    {text}"
    assert lines[1][lines[2].index("^")] == "x"
    assert [line.split(":")[0].strip() for line in lines[3:7]] == ["Q", "K", "V", "output"]
    assert lines[3:7] == [
        f"    {name + ':':<8}{tensor.strip()}"
        for name, tensor in zip(("Q", "K", "V", "output"), text.replace("->", ",").split(","), strict=True)
    ]
    assert lines[7:] == [f"  {ADVICE[chosen]}"]


@pytest.mark.parametrize("chosen", sorted(RULES), ids="-".join)
def test_every_combination_that_is_a_role(chosen):
    found = roles(parse(with_x(chosen)))
    role = {
        ("Q", "K"): found.feature,
        ("K", "V"): found.key,
        ("V", "the output"): found.value_feature,
        ("Q", "the output"): found.query_only,
        SPOKEN: found.shared,
    }[chosen]
    assert "x" in role


def test_all_combinations_are_tried():
    assert len(COMBINATIONS) + len(RULES) == 15


def test_several_coordinates_without_a_role_are_listed(message):
    lines = message(PatternError, lambda: roles(parse("b h i d, b h j d, b h j d -> b h i e")))
    assert lines[0] == '"d" stands in Q, K and V, which is no role: the output lacks it.'
    assert lines[-1] == '  The same is asked of "e", which has no role either.'
    lines = message(PatternError, lambda: roles(parse("b i x, b j, b j -> b i y z")))
    assert lines[-1] == '  The same is asked of "y" and "z", which have no role either.'


def test_a_forgotten_head_is_not_taken_for_the_sequence(message):
    lines = message(PatternError, lambda: roles(parse("b h i d, b h j d, b j e -> b h i e")))
    assert lines[0] == '"h" stands in Q, K and the output, which is no role: V lacks it.'


def test_roles_are_hashable_and_remembered():
    text = "b (h g) i d, b h j d, b h j e -> b (h g) i e"
    assert roles(parse(text)) is roles(parse(text.replace(" ->", "->")))
    assert hash(roles(parse(text))) == hash(roles(parse(text)))
