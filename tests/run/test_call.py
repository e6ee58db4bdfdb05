"""The door of a call: options checked, plans remembered and made again, and what comes back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import qkv
from qkv import run


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Q, K, V = _drawn(0, 1, 2, 3, 4), _drawn(1, 1, 2, 5, 4), _drawn(2, 1, 2, 5, 6)
SPEC = qkv.Spec()
PROBABILITY = "  It is the share of weights that are dropped."
KNOWN = "  Known: align, dropout, positions, seed, sizes, want. Parts (keep, score, ...) belong to the spec."

WRONG: list[tuple[dict[str, object], list[str]]] = [
    ({"want": 3}, ["want=3 (int) is not understood.", "  Give a name, or several: want=('lse', 'entropy')."]),
    ({"want": "lsee"}, ["want=['lsee'] is not known.", "  Known: lse, max_logit, entropy, argmax, weights."]),
    (
        {"want": ("y", "lse", "x")},
        ["want=['x', 'y'] is not known.", "  Known: lse, max_logit, entropy, argmax, weights."],
    ),
    (
        {"positions": 5},
        ["positions=5 (int) is not understood.", '  Give places by coordinate: positions={"i": 5}.'],
    ),
    ({"sizes": 4}, ["sizes=4 (int) is not understood.", '  Give sizes by coordinate: sizes={"g": 4}.']),
    ({"seed": 1.5}, ["seed=1.5 (float) is not understood.", "  Give a whole number."]),
    ({"align": 3}, ["align=3 (int) is not understood.", '  Give "start" or "end".']),
    ({"dropout": "a"}, ["dropout='a' (str) is not understood.", "  Give a probability in [0, 1)."]),
    ({"dropout": 1.0}, ["dropout=1.0 must be a probability in [0, 1).", PROBABILITY]),
    ({"dropout": -0.1}, ["dropout=-0.1 must be a probability in [0, 1).", PROBABILITY]),
    ({"dropout": torch.nan}, ["dropout=nan must be a probability in [0, 1).", PROBABILITY]),
    ({"dropout": True}, ["dropout=True must be a probability in [0, 1).", PROBABILITY]),
    ({"keep": qkv.causal()}, ["unknown option keep.", KNOWN]),
    ({"foo": 1, "bar": 2}, ["unknown option bar, foo.", KNOWN]),
]


@pytest.mark.parametrize(("options", "lines"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_options_are_checked(options: dict[str, object], lines: list[str]) -> None:
    for ask in (SPEC.run, SPEC.plan):
        with pytest.raises(qkv.SpecError) as caught:
            ask(Q, K, V, **options)  # type: ignore[arg-type]
        assert str(caught.value).split("\n") == lines


def test_want_where_only_the_output_is_returned() -> None:
    with pytest.raises(qkv.SpecError) as caught:
        SPEC(Q, K, V, want="lse")
    assert str(caught.value).split("\n") == [
        "want='lse' is given where only the output is returned.",
        "  Call spec.run(q, k, v, want=...), which returns a Result.",
    ]
    assert SPEC(Q, K, V, want=()).equal(SPEC(Q, K, V))


@pytest.mark.parametrize("weights", [qkv.sigmoid(), qkv.linear()], ids=repr)
def test_weights_that_have_no_lse(weights: qkv.terms.weights.Weights) -> None:
    spec = qkv.Spec(weights=weights)
    with pytest.raises(qkv.SpecError) as caught:
        spec.run(Q, K, V, want=("lse", "argmax", "entropy"))
    assert str(caught.value).startswith(f"want=['entropy', 'lse']: {weights!r} weights have none.\n  Only a softmax ")
    assert set(spec.run(Q, K, V, want="argmax").stats) == {"argmax"}


def test_the_result_shows_shapes_types_and_the_strategy() -> None:
    result = SPEC.run(Q, K, V, want=("lse", "argmax"))
    assert repr(result) == "Result(output=1x2x3x6 float32, lse=1x2x3 float32, argmax=1x2x3 int64, by cpu)"
    assert repr(qkv.Spec().run(Q.half(), K.half(), V.half())).startswith("Result(output=1x2x3x6 float16, by ")


def test_what_is_not_wanted_is_not_there() -> None:
    result = SPEC.run(Q, K, V, want="max_logit")
    assert result.lse is None
    assert list(result.stats) == ["max_logit"]
    assert SPEC.run(Q, K, V).stats == {}


def test_sizes_settle_what_shapes_leave_open() -> None:
    spec = qkv.Spec("b i (h d), b j (h d), b j (h e) -> b i (h e)")
    q, k, v = _drawn(0, 1, 3, 8), _drawn(1, 1, 5, 8), _drawn(2, 1, 5, 8)
    with pytest.raises(qkv.SizeMismatch, match=r'^"h" and "d" cannot be solved from \(h d\)=8\.'):
        spec(q, k, v)
    two, four = (spec(q, k, v, sizes={"h": h}) for h in (2, 4))
    assert not torch.allclose(two, four)
    parted = [torch.unflatten(x, -1, (2, 4)).transpose(1, 2) for x in (q, k, v)]
    torch.testing.assert_close(two, SPEC(*parted).transpose(1, 2).flatten(-2))


def test_a_repeated_plan_is_the_same_object() -> None:
    spec = qkv.Spec(score=qkv.softcap(2.0))
    first = spec.plan(Q, K, V)
    assert spec.plan(_drawn(7, 1, 2, 3, 4), K, V) is first
    assert spec.run(Q, K, V).plan is first
    other = spec.plan(Q.double(), K.double(), V.double())
    assert other != first
    assert spec.plan(Q, K, V) is first


def test_equal_specs_plan_equally() -> None:
    plans = [qkv.Spec(keep=qkv.causal()).plan(Q, K, V, align="end") for _ in range(2)]
    assert plans[0] == plans[1]
    assert hash(plans[0]) == hash(plans[1])


def test_the_plan_is_made_again_when_k_or_v_holds_nan() -> None:
    spec = qkv.Spec(keep=qkv.causal())
    q, k, v = (_drawn(n, 1, 2, 4, 8) for n in range(3))
    for number, value in ((1, torch.nan), (2, torch.inf)):
        poisoned = [q, k.clone(), v.clone()]
        poisoned[number][:, :, 3] = value
        with qkv.strategy("sdpa"):
            assert spec.run(q, k, v).plan.strategy == "sdpa"
        result = spec.run(*poisoned)
        assert result.plan.strategy == "cpu"
        assert result.plan.refused["sdpa"].endswith(" x the time of cpu")
        assert result.output[:, :, :3].isfinite().all()
        with qkv.strategy("sdpa"), pytest.raises(qkv.Refused, match="k or v holds NaN or infinity"):
            spec(*poisoned)
    with qkv.strategy("sdpa"):
        assert spec.run(q, k, v).plan.strategy == "sdpa"


def test_gradients_and_no_grad_are_other_calls() -> None:
    spec = qkv.Spec(keep=qkv.causal())
    q = _drawn(0, 1, 2, 5, 4).requires_grad_()
    with torch.no_grad():
        assert spec(q, K, V, sizes=None).grad_fn is None
    assert spec(q, K, V).grad_fn is not None


def test_attention_is_the_spec() -> None:
    parts = {"score": [qkv.softcap(3.0), qkv.alibi()], "keep": qkv.causal(), "scale": 0.5}
    assert qkv.attention(Q, K, V, align="end", **parts).equal(qkv.Spec(**parts)(Q, K, V, align="end"))  # type: ignore[arg-type]


def test_options_that_say_nothing() -> None:
    assert SPEC(Q, K, V, positions={}, align=None, seed=None, sizes={}, dropout=0).equal(SPEC(Q, K, V))


def test_a_seed_fixes_what_is_dropped_and_torch_seeds_the_rest() -> None:
    def ask(**options: object) -> Tensor:
        return SPEC(Q, K, V, dropout=0.5, **options)

    assert ask(seed=3).equal(ask(seed=3))
    assert not ask(seed=3).equal(ask(seed=4))
    torch.manual_seed(5)
    first, second = ask(), ask()
    assert not first.equal(second)
    torch.manual_seed(5)
    assert first.equal(ask())
    assert SPEC(Q, K, V, seed=3).equal(SPEC(Q, K, V))


@pytest.mark.parametrize(
    ("options", "headline"),
    [
        ({"want": (["lse"],)}, "want=(['lse'],) holds something that is no name."),
        ({"want": (1, "lse")}, "want=(1, 'lse') holds something that is no name."),
        ({"positions": {1: 2}}, "positions={1: 2} holds something that is no name."),
    ],
)
def test_options_that_hold_no_names(options: dict[str, object], headline: str) -> None:
    x = torch.randn(1, 1, 2, 4)
    with pytest.raises(qkv.SpecError) as caught:
        qkv.Spec().run(x, x, x, **options)
    assert str(caught.value).splitlines()[0] == headline


def test_want_may_be_an_iterator() -> None:
    x = torch.randn(1, 1, 2, 4)
    assert qkv.Spec().run(x, x, x, want=iter(["lse"])).lse is not None


def test_statistics_of_a_single_row() -> None:
    result = qkv.Spec("d, j d, j e -> e").run(torch.randn(4), torch.randn(3, 4), torch.randn(3, 2), want="lse")
    assert result.lse.shape == ()


def test_a_copied_spec_is_equal_and_remembers_nothing() -> None:
    spec = qkv.Spec(keep=qkv.causal())
    hash(spec)
    copied = copy.deepcopy(spec)
    assert copied == spec and hash(copied) == hash(spec)
    assert not copied.__dict__.get("_prepared")


def test_no_positions_at_all_keep_the_graph_in_linear() -> None:
    x = torch.randn(1, 1, 0, 4, requires_grad=True)
    with qkv.strategy("linear"):
        qkv.attention(x, x, x, keep=qkv.causal(), weights=qkv.linear()).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


def test_a_repeated_call_that_says_where_queries_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its alignment: the same tensors, aligned otherwise, are another call."""
    spec = qkv.Spec(keep=qkv.causal())
    first = {align: spec.run(Q, K, V, align=align).output for align in ("start", "end")}
    assert not torch.equal(first["start"], first["end"])
    for align in ("start", "end"):
        spec(Q, K, V, align=align)
        qkv.attention(Q, K, V, keep=qkv.causal(), align=align)
    monkeypatch.setattr(run.call, "_ready", None)  # a call that is not known would bind
    for align, expected in first.items():
        assert torch.equal(spec(Q, K, V, align=align), expected)
        assert torch.equal(qkv.attention(Q, K, V, keep=qkv.causal(), align=align), expected)
    monkeypatch.undo()
    with pytest.raises(qkv.PositionError):
        spec(Q, K, V)
    with pytest.raises(qkv.PositionError, match="middle"):
        spec(Q, K, V, align="middle")
