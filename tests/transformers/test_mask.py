"""The symbolic mask says what the mask of eager attention says, whatever a model does with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, StaticCache, masking_utils

import qkv
from qkv.errors import ModelError
from qkv.transformers import SymbolicMask, qkv_attention, watch
from qkv.transformers.mask import qkv_mask

WINDOW, CHUNK = 3, 4
MAKERS = {
    "causal": masking_utils.create_causal_mask,
    "window": masking_utils.create_sliding_window_causal_mask,
    "chunked": masking_utils.create_chunked_causal_mask,
    "bidirectional": masking_utils.create_bidirectional_mask,
    "both_sides": masking_utils.create_bidirectional_sliding_window_mask,
}


def config(implementation: str) -> LlamaConfig:
    made = LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, attn_implementation=implementation)
    made.sliding_window, made.attention_chunk_size = WINDOW, CHUNK
    return made


def made(
    kind: str, there: Tensor | None, length: int = 7, past: int = 0, static: bool = False, **settings: Any
) -> list[Tensor | None]:
    """The mask of ``kind`` by eager and by qkv, for ``length`` queries after ``past`` cached ones."""
    masks: list[Tensor | None] = []
    for implementation in ("eager", "qkv"):
        cache = None
        if past or static:
            cache = StaticCache(LlamaConfig(num_hidden_layers=1), max_cache_len=16) if static else DynamicCache()
            if past:
                state = torch.zeros(2, 2, past, 4)
                cache.update(state, state, 0)
        embeds = torch.zeros(2, length, 8)
        if kind in ("bidirectional", "both_sides"):
            settings["allow_is_bidirectional_skip"] = False
        masks.append(
            MAKERS[kind](
                config(implementation), inputs_embeds=embeds, attention_mask=there, past_key_values=cache, **settings
            )
        )
    return masks


def kept_by(mask: SymbolicMask) -> Tensor:
    """What attention sees with the mask's term: where equal scores have weight, [batch, 1, query, key]."""
    rule = mask.rule
    shape = (rule.batch_size, 1, rule.num_queries, 1)
    query, key = torch.zeros(shape), torch.zeros(rule.batch_size, 1, rule.num_keys, 1)
    spec = qkv.Spec("b h i d, b h j d, b h j e -> b h i e", keep=rule.keep)
    with qkv.strategy("reference"):
        weights = spec.run(query, key, key, want=("weights",), positions=rule.positions).stats["weights"]
    return weights.reshape(*shape[:3], rule.num_keys) > 0


def paddings(length: int) -> dict[str, Tensor | None]:
    left, right = torch.ones(2, length, dtype=torch.long), torch.ones(2, length, dtype=torch.long)
    left[0, :2] = 0
    right[0, -2:] = 0
    return {"none": None, "full": torch.ones(2, length, dtype=torch.long), "left": left, "right": right}


@pytest.mark.parametrize("side", ["none", "full", "left", "right"])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("past", "length"), [(0, 7), (0, 1), (5, 1), (5, 3)])
def test_the_term_keeps_what_eager_keeps(kind: str, side: str, past: int, length: int) -> None:
    if past and kind in ("bidirectional", "both_sides"):
        past = 0
    there = paddings(past + length)[side]
    eager, ours = made(kind, there, length, past)
    assert isinstance(ours, SymbolicMask) and eager is not None
    assert ours.dtype == eager.dtype and ours.shape == eager.shape
    assert torch.equal(kept_by(ours), eager == 0)
    assert torch.equal(ours.rule.dense(), eager)


@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("past", [0, 5])
def test_a_static_cache_hides_what_is_not_written_yet(side: str, past: int) -> None:
    there = paddings(past + 4)[side]
    eager, ours = made("causal", there, 4, past, static=True)
    assert isinstance(ours, SymbolicMask) and eager is not None and ours.shape[-1] == 16
    assert torch.equal(kept_by(ours), eager == 0)


HOLES = {
    "left": ([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], True),
    "left alike": ([[0, 1, 1, 1, 1], [0, 1, 1, 1, 1]], True),
    "right": ([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], False),
    "a hole": ([[0, 1, 0, 1, 1], [1, 1, 1, 1, 1]], False),
    "nothing before": ([[0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], True),
}


@pytest.mark.parametrize(("rows", "same"), HOLES.values(), ids=HOLES)
@pytest.mark.parametrize("kind", ["causal", "window"])
def test_left_padding_is_one_term_from_token_to_token(rows: list[list[int]], same: bool, kind: str) -> None:
    there, specs = torch.tensor(rows), list[qkv.Spec]()
    with torch.inference_mode():
        for past in (5, 6):
            there = torch.cat([there, torch.ones(2, 1, dtype=torch.long)], 1)
            eager, ours = made(kind, there, 1, past)
            assert isinstance(ours, SymbolicMask) and eager is not None
            assert torch.equal(kept_by(ours), eager == 0)
            q, k = torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, ours.shape[-1], 4)
            with qkv.strategy("cpu"):
                qkv_attention(torch.nn.Module(), q, k, k, ours)
            specs += ours.rule.specs.values()
            assert ours.rule.captures != same
    assert (specs[0] is specs[1]) == same


def test_padding_behind_the_keys_that_are_held_is_no_term() -> None:
    there = torch.tensor([[0] * 3 + [1] * 9, [1] * 12])
    ours = [
        qkv_mask(
            2,
            1,
            4,
            q_offset=n + 3,
            kv_offset=n,
            attention_mask=there,
            mask_function=masking_utils.sliding_window_causal_mask_function(4),
        )
        for n in (1, 2, 3, 5)
    ]
    terms = [mask.rule.keep for mask in ours if isinstance(mask, SymbolicMask)]
    assert len(terms) == 4 and terms[0] == terms[1] and terms[2] == terms[3] != terms[0]
    assert "tensor" in repr(terms[0]) and "tensor" not in repr(terms[2])


def test_packed_sequences_stay_apart() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]])
    eager, ours = made("causal", None, position_ids=positions)
    assert isinstance(ours, SymbolicMask) and eager is not None
    assert torch.equal(kept_by(ours), eager == 0)
    assert not kept_by(ours)[0, 0, 3, 2] and kept_by(ours)[1, 0, 3, 2]


def test_functions_of_the_caller_are_recorded() -> None:
    image = torch.tensor([[0, 1, 1, 1, 0, 0, 0], [0] * 7])
    settings = {
        "or_mask_function": lambda b, h, i, j: (image[b, i] == 1) & (image[b, j] == 1),
        "and_mask_function": lambda b, h, i, j: (j < 5) | (i == j),
    }
    eager, ours = made("causal", paddings(7)["left"], **settings)
    assert isinstance(ours, SymbolicMask) and eager is not None
    assert torch.equal(kept_by(ours), eager == 0)


def test_blocks_of_image_tokens_see_one_another() -> None:
    blocks = torch.tensor([[-1, 0, 0, 0, -1, 1, 1], [-1] * 7])
    eager, ours = made("causal", None, block_sequence_ids=blocks)
    assert isinstance(ours, SymbolicMask) and eager is not None
    assert torch.equal(kept_by(ours), eager == 0)


def test_a_function_that_cannot_be_recorded_gives_the_plain_tensor() -> None:
    def odd(b: Any, h: Any, i: Any, j: Any) -> Any:
        return torch.fmod(i + j, 2) == 0

    eager, ours = made("causal", paddings(7)["left"], and_mask_function=odd)
    assert type(ours) is Tensor and eager is not None
    assert torch.equal(ours, eager)


def test_a_bidirectional_mask_that_keeps_everything_is_left_out() -> None:
    embeds = torch.zeros(2, 7, 8)
    full = masking_utils.create_bidirectional_mask(config("qkv"), embeds, torch.ones(2, 7))
    asked = masking_utils.create_bidirectional_mask(config("qkv"), embeds, None, allow_is_bidirectional_skip=False)
    assert full is None
    assert isinstance(asked, SymbolicMask) and asked.rule.keep is None and not asked.rule.dense().any()


def test_a_decoding_step_keeps_every_key_and_has_no_term() -> None:
    _, ours = made("causal", paddings(6)["full"], 1, 5)
    assert isinstance(ours, SymbolicMask) and ours.rule.keep is None


@pytest.fixture
def mask() -> SymbolicMask:
    made = qkv_mask(batch_size=2, q_length=5, kv_length=7, q_offset=2, attention_mask=paddings(7)["left"])
    assert isinstance(made, SymbolicMask)
    return made


def test_slices_of_queries_and_keys_stay_symbolic(mask: SymbolicMask) -> None:
    dense = mask.rule.dense()
    for index in (
        (slice(None), slice(None), slice(-2, None)),
        (..., slice(1, 4), slice(None)),
        (..., slice(None), slice(0, 6)),
        (..., slice(2, 3), slice(3, 7)),
    ):
        part = mask[index]
        assert isinstance(part, SymbolicMask), index
        assert torch.equal(part.rule.dense(), dense[index]) and torch.equal(kept_by(part), dense[index] == 0)
    assert isinstance(mask.detach(), SymbolicMask) and isinstance(mask[:, :, :5, :7], SymbolicMask)


def test_other_operations_get_the_real_tensor(mask: SymbolicMask) -> None:
    dense = mask.rule.dense()
    scores = torch.randn(2, 4, 5, 7)
    for operation in (
        lambda m: m[:, 0],
        lambda m: m[:, :, ::2],
        lambda m: scores + m,
        lambda m: m == 0,
        lambda m: m.bool(),
        lambda m: torch.where(m == 0, 0.0, -1.0),
        lambda m: m.masked_fill(m < 0, -5.0),
        lambda m: torch.cat([m, m], dim=-1),
        lambda m: torch.nn.functional.pad(m, (0, 2)),
        lambda m: m.sum(),
        lambda m: m.expand(2, 3, 5, 7),
        lambda m: m.clone(),
        lambda m: m.to(torch.float64),
    ):
        assert type(operation(mask)) is Tensor
        assert torch.equal(operation(mask), operation(dense))
    with pytest.raises(RuntimeError, match="not supported"):
        mask.tolist()  # what torch cannot do with the object it says, and loses nothing


def test_a_mask_changed_in_place_counts_as_changed(mask: SymbolicMask) -> None:
    before = mask.rule.dense().clone()
    mask.masked_fill_(torch.arange(7) == 3, torch.finfo(torch.float32).min)
    assert isinstance(mask, SymbolicMask) and mask.rule.edited
    assert bool((mask.rule.dense()[..., 3] < 0).all()) and not torch.equal(mask.rule.dense(), before)
    values = torch.eye(7)[None, None].expand(2, 1, 7, 7)
    with watch.watching(lambda call: None):
        ours = qkv_attention(torch.nn.Module(), torch.zeros(2, 1, 5, 1), torch.zeros(2, 1, 7, 1), values, mask)[0]
    assert torch.equal(ours[:, :, 0] > 0, mask.rule.dense()[:, 0] == 0)
    with pytest.raises(ModelError, match="slices its attention mask after changing it in place"):
        mask[..., 1:]


def test_a_part_changed_in_place_is_refused(mask: SymbolicMask) -> None:
    with pytest.raises(ModelError, match="changes a part of its attention mask in place"):
        mask[..., 2:4] = 0.0


def test_it_says_what_it_is(mask: SymbolicMask) -> None:
    assert repr(mask).startswith("SymbolicMask(") and "positions={'i': 2, 'j': 0}" in repr(mask)


def test_one_forward_pass_builds_one_spec_for_all_layers() -> None:
    from tests.transformers import families, harness

    family = next(f for f in families.CAUSAL if f.name == "llama")
    model = qkv.transformers.use(family.build())
    rules: list[Any] = []
    with watch.watching(lambda call: rules.append(call.mask.rule)):
        harness.output(model, harness.inputs(family, "left"))
    assert len(rules) == 2 and rules[0] is rules[1] and len(rules[0].specs) == 1


def test_masks_are_forgotten_with_the_batch() -> None:
    import weakref

    from qkv.transformers import given

    tensor = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    first = given.read(tensor, (1, 2, 3, 3), "the mask")
    assert given.read(tensor, (1, 2, 3, 3), "the mask") is first
    tensor[0, 0, 0, 2] = True
    assert given.read(tensor, (1, 2, 3, 3), "the mask") is not first  # changed in place
    gone, known = weakref.ref(tensor), len(given._seen)
    del tensor
    assert gone() is None and len(given._seen) == known - 1
