"""Rotary positions, against transformers' own functions and against what rotation means."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as apply_interleaved
from transformers.models.cohere.modeling_cohere import rotate_half as rotate_interleaved
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as apply_glm
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as apply_half
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, Qwen2VLVisionRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from qkv.errors import DtypeError, ShapeError, SpecError
from qkv.terms import scaling
from qkv.terms.position import Rope, permute_pairing, rope

SHORT, LONG = [1.0 + 0.01 * k for k in range(32)], [2.0 + 0.5 * k for k in range(32)]
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}

# name: transformers' parameters, our scaling, theta, lengths
SCALINGS: dict[str, tuple[dict[str, Any], scaling.Scaling, float, tuple[int, ...]]] = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, scaling.linear(4.0), 1e4, (8,)),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, scaling.dynamic_ntk(2.0, 8192), 1e4, (1, 8192, 8193, 30000)),
    "yarn": (YARN, scaling.yarn(8.0, 4096), 1e4, (8,)),
    "yarn long": (YARN | {"factor": 32.0}, scaling.yarn(32.0, 4096), 1e6, (8,)),
    "yarn betas": (
        YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
        scaling.yarn(8.0, 4096, beta_fast=16.0, beta_slow=2.0, truncate=False),
        150000.0,
        (8,),
    ),
    "yarn attention factor": (
        YARN | {"attention_factor": 0.7},
        scaling.yarn(8.0, 4096, attention_factor=0.7),
        1e4,
        (8,),
    ),
    "yarn mscale": (
        YARN | {"mscale": 0.707, "mscale_all_dim": 1.0},
        scaling.yarn(8.0, 4096, mscale=0.707, mscale_all_dim=1.0),
        1e4,
        (8,),
    ),
    "yarn shrinking": (YARN | {"factor": 1.0}, scaling.yarn(1.0, 4096), 1e4, (8,)),
    "yarn tiny": (YARN | {"original_max_position_embeddings": 16}, scaling.yarn(8.0, 16), 1e4, (8,)),
    "llama3": (
        LLAMA3 | {"original_max_position_embeddings": 8192},
        scaling.llama3(8.0, 1.0, 4.0, 8192),
        500000.0,
        (8,),
    ),
    "llama3 short": (
        LLAMA3 | {"original_max_position_embeddings": 64, "factor": 32.0},
        scaling.llama3(32.0, 1.0, 4.0, 64),
        1e4,
        (8,),
    ),
    "longrope": (
        LONGROPE | {"original_max_position_embeddings": 4096, "factor": 32.0},
        scaling.longrope(SHORT, LONG, 4096, factor=32.0),
        1e4,
        (1, 4096, 4097),
    ),
    "longrope attention factor": (
        LONGROPE | {"original_max_position_embeddings": 4096, "attention_factor": 1.19},
        scaling.longrope(SHORT, LONG, 4096, attention_factor=1.19),
        1e4,
        (4096, 4097),
    ),
}


def config(parameters: dict[str, Any], theta: float, head_dim: int = 64, **more: Any) -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=8192,
        rope_parameters={"rope_theta": theta, **parameters},
        **more,
    )


def published(parameters: dict[str, Any], theta: float, length: int, head_dim: int = 64) -> tuple[torch.Tensor, float]:
    made = config(parameters, theta, head_dim)
    frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](made, torch.device("cpu"), seq_len=length)
    return frequencies.double(), float(factor)


@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    parameters, ours, theta, lengths = SCALINGS[name]
    for length in lengths:
        expected, factor = published(parameters, theta, length)
        frequencies, own_factor = rope(theta, scaling=ours).frequencies(64, length)
        assert own_factor == pytest.approx(factor, rel=1e-12)
        # theirs are rounded to float32, and so is their exponent
        torch.testing.assert_close(frequencies, expected, rtol=3e-6, atol=0)


@pytest.mark.parametrize("name", ["linear", "yarn", "llama3"])
def test_partial_frequencies_are_those_of_transformers(name: str) -> None:
    parameters, ours, theta, _ = SCALINGS[name]
    expected, _ = published(parameters | {"partial_rotary_factor": 0.4}, theta, 8, head_dim=80)
    frequencies, _ = rope(theta, fraction=0.4, scaling=ours).frequencies(80, 8)
    assert frequencies.shape == (16,)
    torch.testing.assert_close(frequencies, expected, rtol=3e-6, atol=0)


def test_scalings_change_frequencies() -> None:
    """Shows that the comparison above can fail: no two of the scalings agree."""
    seen = {name: rope(1e4, scaling=row[1]).frequencies(64, 20000) for name, row in SCALINGS.items()}
    values = [(tuple(f.tolist()), factor) for f, factor in seen.values()]
    same = {
        frozenset((a, b)) for a in seen for b in seen if a < b and values[[*seen].index(a)] == values[[*seen].index(b)]
    }
    assert not same


def tables(r: Rope, size: int, positions: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin as transformers' models make them: ``[batch, position, size]``, halves repeated."""
    frequencies, factor = r.frequencies(size, length)
    angles = positions[..., None].double() * frequencies
    doubled = torch.cat((angles, angles), dim=-1)
    return doubled.cos() * factor, doubled.sin() * factor


@pytest.mark.parametrize("name", ["none", *SCALINGS])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_half_split_rotation_is_that_of_transformers(name: str, fraction: float) -> None:
    row = SCALINGS.get(name)
    size = 64 if fraction == 1.0 else 128
    r = rope(row[2] if row else 1e4, fraction=fraction, scaling=row[1] if row else None)
    q, k = torch.randn(2, 2, 3, 7, size, dtype=torch.float64)
    positions = torch.randint(0, 5000, (2, 7))
    cosine, sine = tables(r, size, positions, 5000)
    expected_q, expected_k = apply_half(q, k, cosine, sine)
    torch.testing.assert_close(r.rotate(q, positions[:, None], length=5000), expected_q, rtol=0, atol=1e-12)
    torch.testing.assert_close(r.rotate(k, positions[:, None], length=5000), expected_k, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_interleaved_rotation_is_that_of_transformers(fraction: float) -> None:
    r = rope(interleaved=True, fraction=fraction)
    q, k = torch.randn(2, 2, 3, 7, 32, dtype=torch.float64)
    positions = torch.arange(7).expand(2, 7) + torch.tensor([[0], [100]])
    cosine, sine = tables(r, 32, positions, 107)
    expected_q, expected_k = apply_glm(q, k, cosine, sine)
    torch.testing.assert_close(r.rotate(q, positions[:, None], length=107), expected_q, rtol=0, atol=1e-12)
    torch.testing.assert_close(r.rotate(k, positions[:, None], length=107), expected_k, rtol=0, atol=1e-12)


def test_interleaved_rotation_is_that_of_cohere() -> None:
    r = rope(interleaved=True)
    q = torch.randn(1, 2, 5, 16)
    angles = torch.arange(5.0)[None, :, None] * r.frequencies(16, 5)[0].float()
    doubled = angles.repeat_interleave(2, dim=-1)
    expected, _ = apply_interleaved(q, q, doubled.cos(), doubled.sin())
    torch.testing.assert_close(r.rotate(q, torch.arange(5), length=5), expected)
    assert rotate_interleaved(torch.tensor([1.0, 2.0])).tolist() == [-2.0, 1.0]


def test_chunked_sections_are_those_of_qwen2_vl() -> None:
    made = config({"rope_type": "default", "mrope_section": [16, 8, 8]}, 1e4)
    embedding = Qwen2VLRotaryEmbedding(made)
    positions = torch.randint(0, 300, (3, 2, 9))
    q = torch.randn(2, 4, 9, 64)
    expected, _ = apply_half(q, q, *embedding(q, positions))
    ours = rope(sections=(16, 8, 8)).rotate(q, positions[:, :, None], length=300)
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-4)  # their angles are float32: 300 * 2^-24 * |q|
    swapped = rope(sections=(8, 16, 8)).rotate(q, positions[:, :, None], length=300)
    assert (swapped - expected).abs().max() > 0.1


def test_interleaved_sections_are_those_of_qwen3_vl() -> None:
    made = config({"rope_type": "default", "mrope_section": [12, 10, 10]}, 1e4)
    embedding = Qwen3VLTextRotaryEmbedding(made)
    positions = torch.randint(0, 300, (3, 2, 9))
    q = torch.randn(2, 4, 9, 64)
    expected, _ = apply_half(q, q, *embedding(q, positions))
    ours = rope(sections=(12, 10, 10), section_layout="interleaved").rotate(q, positions[:, :, None], length=300)
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-4)
    chunked = rope(sections=(12, 10, 10)).rotate(q, positions[:, :, None], length=300)
    assert (chunked - expected).abs().max() > 0.1


def test_axial_sections_are_those_of_qwen2_vl_vision() -> None:
    parameters = {"rope_type": "axial", "rope_theta": 1e4}
    made = SimpleNamespace(rope_parameters=parameters, embed_dim=128, num_heads=2, hidden_size=128, head_dim=64)
    embedding = Qwen2VLVisionRotaryEmbedding(made)
    positions = torch.randint(0, 40, (9, 2))
    q = torch.randn(9, 2, 64)
    cosine, sine = embedding(q, positions)
    expected, _ = apply_half(q, q, cosine, sine)
    ours = rope(sections=(16, 16), section_layout="axial").rotate(q, positions.T[:, :, None], length=40)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_proportional_is_that_of_transformers() -> None:
    parameters = {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.25}
    expected, _ = published(parameters, 1e6, 8)
    r = rope(1e6, fraction=0.25, scaling=scaling.proportional(2.0))
    frequencies, _ = r.frequencies(64, 8)
    torch.testing.assert_close(frequencies, expected, rtol=3e-6, atol=0)
    x = torch.randn(5, 64, dtype=torch.float64)
    turned = r.rotate(x, torch.arange(5), length=5)
    still = [*range(8, 32), *range(40, 64)]
    assert torch.equal(turned[:, still], x[:, still])
    assert (turned[1:] != x[1:]).any(dim=0)[[0, 32, 7, 39]].all()


EVERY = {
    "half": rope(),
    "interleaved": rope(interleaved=True),
    "partial": rope(fraction=0.5),
    "partial interleaved": rope(fraction=0.5, interleaved=True),
    "linear": rope(scaling=scaling.linear(4.0)),
    "dynamic": rope(scaling=scaling.dynamic_ntk(4.0, 64)),
    "llama3": rope(scaling=scaling.llama3(8.0, 1.0, 4.0, 64)),
    "proportional": rope(fraction=0.5, scaling=scaling.proportional()),
    "sections": rope(sections=(4, 2, 2)),
    "axial": rope(sections=(4, 4), section_layout="axial"),
}


@pytest.mark.parametrize("name", EVERY)
def test_rotation_preserves_norms(name: str) -> None:
    x = torch.randn(3, 11, 16, dtype=torch.float64)
    turned = EVERY[name].rotate(x, torch.arange(11) * 37, length=400)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-13, atol=0)
    assert not torch.equal(turned, x)


def test_the_attention_factor_scales_norms() -> None:
    r = rope(scaling=scaling.yarn(4.0, 64))
    x = torch.randn(3, 11, 16, dtype=torch.float64)
    turned = r.rotate(x, torch.arange(11), length=400)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1) * (0.1 * math.log(4.0) + 1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_dot_products_depend_only_on_the_difference(name: str) -> None:
    r = EVERY[name]
    q, k = torch.randn(2, 6, 16, dtype=torch.float64)
    positions = torch.arange(6)
    near = r.rotate(q, positions, length=2000) @ r.rotate(k, positions, length=2000).T
    far = r.rotate(q, positions + 1234, length=2000) @ r.rotate(k, positions + 1234, length=2000).T
    torch.testing.assert_close(near, far, rtol=0, atol=1e-10)
    other = r.rotate(q, positions + 1, length=2000) @ r.rotate(k, positions, length=2000).T
    assert (other - near).abs().max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_gradients(name: str) -> None:
    r = EVERY[name]
    x = torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: r.rotate(t, torch.tensor([0, 5, 9]), length=100), (x,))


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_pairings_are_related_by_the_permutation(fraction: float) -> None:
    size, rotated = 16, int(16 * fraction)
    weight_q, weight_k = torch.randn(2, 3 * size, 20, dtype=torch.float64)
    hidden = torch.randn(5, 20, dtype=torch.float64)
    positions = torch.arange(5)

    def scores(q: torch.Tensor, k: torch.Tensor, interleaved: bool) -> torch.Tensor:
        r = rope(interleaved=interleaved, fraction=fraction)
        q, k = ((hidden @ w.T).view(5, 3, size).transpose(0, 1) for w in (q, k))
        return r.rotate(q, positions, length=5) @ r.rotate(k, positions, length=5).mT

    converted = [permute_pairing(w, size, to="interleaved", rotary_size=rotated) for w in (weight_q, weight_k)]
    expected = scores(weight_q, weight_k, interleaved=False)
    torch.testing.assert_close(scores(*converted, interleaved=True), expected, rtol=1e-12, atol=1e-12)
    assert (scores(*converted, interleaved=False) - expected).abs().max() > 1e-3
    back = permute_pairing(converted[0], size, to="half", rotary_size=rotated)
    assert torch.equal(back, weight_q)


def test_permutation_of_a_bias() -> None:
    assert permute_pairing(torch.arange(8), 4, to="interleaved").tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert permute_pairing(torch.arange(8), 8, to="half", rotary_size=4).tolist() == [0, 2, 1, 3, 4, 5, 6, 7]


def test_distant_positions_keep_their_digits_in_float32() -> None:
    x = torch.randn(1, 64)
    place = torch.tensor([1_000_003])
    exact = rope().rotate(x.double(), place, length=1_000_004)
    torch.testing.assert_close(rope().rotate(x, place, length=1_000_004).double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_inputs_type(dtype: torch.dtype) -> None:
    x = torch.randn(4, 8).to(dtype)
    turned = rope(fraction=0.5).rotate(x, torch.arange(4), length=4)
    assert turned.dtype == dtype
    assert torch.equal(turned[:, 4:], x[:, 4:])
    exact = rope(fraction=0.5).rotate(x.double(), torch.arange(4), length=4)
    step = torch.finfo(dtype).eps * x.abs().max().double()
    assert (turned.double() - exact).abs().max() <= 2 * step


def test_equal_components_are_the_plain_rotation() -> None:
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    expected = rope().rotate(x, torch.arange(5), length=5)
    assert torch.equal(rope(sections=(4, 2, 2)).rotate(x, torch.arange(5), length=5), expected)
    assert torch.equal(rope(sections=(4, 2, 2)).rotate(x, torch.arange(5).expand(3, 1, 5), length=5), expected)


def test_empty_sequences_and_fractional_positions() -> None:
    assert rope().rotate(torch.zeros(2, 0, 8), torch.arange(0), length=0).shape == (2, 0, 8)
    x = torch.randn(1, 8, dtype=torch.float64)
    twice = rope().rotate(rope().rotate(x, torch.tensor([0.5]), length=1), torch.tensor([0.5]), length=1)
    torch.testing.assert_close(twice, rope().rotate(x, torch.tensor([1]), length=2))


def test_ropes_are_data() -> None:
    a = rope(scaling=scaling.longrope([1, 2], [3, 4], 16, factor=2), sections=[1, 1])
    b = rope(scaling=scaling.longrope([1.0, 2.0], [3.0, 4.0], 16, factor=2), sections=(1, 1))
    assert a == b
    assert hash(a) == hash(b)
    assert a != rope(sections=(1, 1))


def refused(message: str, make: Any) -> None:
    with pytest.raises(SpecError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n  " in str(caught.value), "what to do is missing"


def test_messages() -> None:
    for theta in (0.0, -1.0, math.inf, math.nan):
        refused("theta = ", lambda theta=theta: rope(theta))
    for fraction in (0.0, -0.5, 1.5, math.nan):
        refused("fraction = ", lambda fraction=fraction: rope(fraction=fraction))
    refused("7 of 7 features would be rotated", lambda: rope().frequencies(7, 1))
    refused("3 of 6 features would be rotated", lambda: rope(fraction=0.5).frequencies(6, 1))
    refused("0 of 8 features would be rotated", lambda: rope(fraction=0.1).frequencies(8, 1))
    refused("sum to 8, not to 4", lambda: rope(sections=(4, 4)).frequencies(8, 1))
    refused("at least 1", lambda: rope(sections=()))
    refused("at least 1", lambda: rope(sections=(4, 0)))
    refused("Known: chunked, interleaved, axial", lambda: rope(sections=(4, 4), section_layout="mixed"))  # type: ignore[arg-type]
    refused("without sections", lambda: rope(section_layout="axial"))
    refused(
        "cannot be interleaved over 8 pairs", lambda: _rotate(rope(sections=(1, 3, 4), section_layout="interleaved"))
    )
    refused("qkv.scaling.linear(4.0)", lambda: rope(scaling={"factor": 4}))  # type: ignore[arg-type]


def _rotate(r: Rope) -> torch.Tensor:
    return r.rotate(torch.randn(5, 16), torch.zeros(3, 5), length=5)


def test_messages_of_scalings() -> None:
    for bad in (0.0, -2.0, math.nan, math.inf):
        refused("linear: factor", lambda bad=bad: scaling.linear(bad))
        refused("proportional: factor", lambda bad=bad: scaling.proportional(bad))
        refused("dynamic_ntk: factor", lambda bad=bad: scaling.dynamic_ntk(bad, 64))
        refused("yarn: factor", lambda bad=bad: scaling.yarn(bad, 64))
        refused("yarn: beta_slow", lambda bad=bad: scaling.yarn(2.0, 64, beta_slow=bad))
        refused("yarn: attention_factor", lambda bad=bad: scaling.yarn(2.0, 64, attention_factor=bad))
        refused("llama3: low_freq_factor", lambda bad=bad: scaling.llama3(8.0, bad, 4.0, 64))
        refused("longrope: long_factor[1]", lambda bad=bad: scaling.longrope([1, 1], [1, bad], 64, factor=2.0))
        refused("longrope: factor", lambda bad=bad: scaling.longrope([1], [1], 64, factor=bad))
    for bad in (0, 1, -5, 64.0, True):
        refused("original_length = ", lambda bad=bad: scaling.dynamic_ntk(2.0, bad))
    refused("give both, or neither", lambda: scaling.yarn(2.0, 64, mscale=1.0))
    refused("The first must be above the second", lambda: scaling.llama3(8.0, 4.0, 4.0, 64))
    refused("short_factor has 1 numbers, long_factor 2", lambda: scaling.longrope([1], [1, 2], 64, factor=2.0))
    refused("neither factor nor attention_factor", lambda: scaling.longrope([1], [1], 64))
    refused("1 factors for 4 pairs", lambda: rope(scaling=scaling.longrope([1], [1], 64, factor=2.0)).frequencies(8, 1))
    refused("theta must be above 1", lambda: rope(1.0, scaling=scaling.yarn(2.0, 64)).frequencies(8, 1))
    refused("dynamic_ntk cannot rotate 2", lambda: rope(scaling=scaling.dynamic_ntk(2.0, 64)).frequencies(2, 1))


def test_messages_about_tensors() -> None:
    with pytest.raises(DtypeError, match=r"rope rotates floating-point tensors, and got torch.int64"):
        rope().rotate(torch.zeros(2, 8, dtype=torch.int64), torch.arange(2), length=2)
    with pytest.raises(ShapeError, match=r"positions of shape \(3,\) for features of shape \(2, 8\)") as caught:
        rope().rotate(torch.zeros(2, 8), torch.arange(3), length=3)
    assert "broadcast to (2,)." in str(caught.value)
    with pytest.raises(ShapeError, match=r"broadcast to \(2,\), or to \(3, 2\) with one entry for each section"):
        rope(sections=(2, 1, 1)).rotate(torch.zeros(2, 8), torch.zeros(2, 2), length=3)
    with pytest.raises(ShapeError, match="is not made of heads of 6"):
        permute_pairing(torch.zeros(8, 2), 6, to="half")
    with pytest.raises(SpecError, match="5 of 8 features"):
        permute_pairing(torch.zeros(8, 2), 8, to="half", rotary_size=5)
    with pytest.raises(SpecError, match="Known: interleaved, half"):
        permute_pairing(torch.zeros(8, 2), 8, to="other")  # type: ignore[arg-type]
