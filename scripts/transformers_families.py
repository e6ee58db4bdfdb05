"""Lists every model family of the installed transformers: does it use the attention interface, and does it agree?

    python scripts/transformers_families.py            writes docs/transformers-families.md
    python scripts/transformers_families.py llama t5   prints these families only

Whether a family routes is read from its source. Then a tiny model with random weights is built from the family's
configuration, its sizes made small by name, and qkv is compared with its own eager attention as on any first use.
Where that cannot be built this way, the table says why; it then counts as routing by its source alone.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import importlib
import re
import sys
import textwrap
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import configuration_auto, modeling_auto

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import qkv.transformers
from qkv.errors import QkvError, SizeMismatch
from qkv.transformers import hf, watch
from qkv.transformers.eager import own_eager_ratio
from qkv.transformers.tiny import tiny_batch

PAGE = Path(__file__).parents[1] / "docs" / "transformers-families.md"
LARGEST = 64_000_000
"""Weights of the largest model that is built; what stays larger after shrinking is not."""

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "embed_dim": 32,
    "emb_dim": 32,
    "hidden_dim": 48,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "n_inner": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "ffn_hidden_size": 48,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_decoder_layers": 2,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2,
    "depth": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "d_head": 8,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "max_seq_len": 128,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_num_experts": 4,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "image_size": 32,
    "patch_size": 8,
    "embedding_size": 16,
    "rotary_dim": 8,
    "word_embed_proj_dim": 32,
    "sliding_window": 4,
    "attention_window": 4,
    "vision_feature_layer": -1,
    "mamba_num_heads": 4,
    "mamba_d_state": 8,
    "state_size": 8,
    "num_labels": 3,
    "projection_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "sep_token_id": 2,
    "cls_token_id": 1,
    "unk_token_id": 0,
    "num_mel_bins": 16,
    "max_source_positions": 32,
    "max_target_positions": 64,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 128,
    "num_codebooks": 2,
    "ffn_intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "global_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 4,
    "num_nextn_predict_layers": 0,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
}


UNSET = {"head_dim", "n_group", "topk_group", "num_key_value_heads", "num_experts_per_tok", "moe_intermediate_size"}
"""Sizes that are set even where a configuration's default is None; models are made with a checkpoint's values."""

OUTCOMES = {
    "agrees": ("Agree", "a tiny left-padded model with random weights gives with qkv what eager attention gives."),
    "does not route": ("Do not route", "attention stands in the family's own code; `qkv.transformers.use` says so."),
    "refused": ("Refused", "they route, and are stopped with a message by the first-use check or an unknown argument."),
    "not built": ("Route by their source", "no tiny model could be built or fed blindly; the first-use check decides."),
    "no attention of its own": ("Have no attention of their own", "recurrent, convolutional, or made of others."),
}


@dataclass(frozen=True)
class Row:
    """One family: its class, whether it routes by its source, and what became of the tiny model."""

    family: str
    group: str
    model: str
    routes: bool | None
    outcome: str
    detail: str = ""


def groups() -> dict[str, tuple[str, str]]:
    """Each model type with its group and the class that is looked at: the one that writes text, where there is one."""
    found: dict[str, tuple[str, str]] = {}
    mappings = [
        ("causal language models", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        ("sequence to sequence", modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
        ("encoders and others", modeling_auto.MODEL_MAPPING_NAMES),
    ]
    for group, mapping in mappings:
        for kind, name in mapping.items():
            if kind in configuration_auto.CONFIG_MAPPING_NAMES:
                found.setdefault(kind, (group, name if isinstance(name, str) else name[0]))
    return dict(sorted(found.items()))


def shrink(config: PreTrainedConfig, seen: set[int]) -> None:
    """Makes sizes small, in the configuration and its parts, by the names of their attributes."""
    if id(config) in seen:
        return
    seen.add(id(config))
    layers = next((n for n in ("num_hidden_layers", "n_layer", "num_layers") if getattr(config, n, 0)), None)
    before = getattr(config, layers) if layers else 0
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            shrink(value, seen)
        elif name in SMALL and (isinstance(value, int) or (value is None and name in UNSET)):
            setattr(config, name, SMALL[name])
        elif isinstance(value, list | tuple) and before and len(value) == before:  # one entry for each layer
            picked = [value[0], next((v for v in value if v != value[0]), value[0])]
            setattr(config, name, type(value)(picked))
    if getattr(config, "kv_lora_rank", None):  # latent attention has as many key heads as query heads
        config.num_key_value_heads = SMALL["num_attention_heads"]


def tiny(model_class: type[PreTrainedModel]) -> PreTrainedModel:
    """A tiny model of the family with wide random weights."""
    config = model_class.config_class()
    shrink(config, set())
    config._attn_implementation_internal = "eager"
    with torch.device("meta"):
        weights = sum(p.numel() for p in model_class(config).parameters())
    if weights > LARGEST:
        raise ValueError(f"still {weights:,} weights after shrinking")
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(0.0, 0.2)
    model.set_attn_implementation("eager")
    return model


def image_or_sound(model: PreTrainedModel) -> dict[str, Any]:
    """What a model reads whose main input is not text."""
    config = model.config
    part = getattr(config, "vision_config", None) or config
    if model.main_input_name == "input_ids" and part is not config:
        text = tiny_batch(model)
        if text is not None:
            size = part.image_size
            return {**text, "pixel_values": torch.randn(2, getattr(part, "num_channels", 3), size, size)}
    if model.main_input_name == "input_ids":
        model.set_attn_implementation("eager")
        with torch.no_grad():
            model(**tiny_batch(model))  # raises what kept the first-use check from reading it
    if model.main_input_name == "pixel_values":
        size = getattr(part, "image_size", 32)
        size = size if isinstance(size, int) else size[0]
        return {"pixel_values": torch.randn(2, getattr(part, "num_channels", 3), size, size)}
    if model.main_input_name == "input_features":
        return {"input_features": torch.randn(2, getattr(config, "num_mel_bins", 16), 64)}
    if model.main_input_name == "input_values":
        return {"input_values": torch.randn(2, 3200)}
    raise ValueError(f"its main input is {model.main_input_name}")


def examine(kind: str, group: str, name: str) -> Row:
    """What becomes of one family."""
    try:
        model_class = getattr(transformers, name)
        source = importlib.import_module(model_class.__module__)
    except (ImportError, AttributeError, RuntimeError) as error:
        return Row(kind, group, name, None, "not built", one_line(error))
    text = Path(str(source.__file__)).read_text(encoding="utf-8")
    if "get_interface(" not in text and "Attention" not in text:
        return Row(kind, group, name, None, "no attention of its own")
    if not hf.asks_the_interface(model_class):
        return Row(kind, group, name, False, "does not route")
    try:
        model = tiny(model_class)
    except Exception as error:  # noqa: BLE001 # a table of what happens when hundreds of classes are built blindly
        return Row(kind, group, name, True, "not built", one_line(error))
    try:
        agreement = qkv.transformers.compare(qkv.transformers.use(model, check=False))
    except SizeMismatch as error:
        return Row(kind, group, name, True, "not built", one_line(error))  # sizes that do not fit once they are small
    except QkvError as error:
        return Row(kind, group, name, True, "refused", one_line(error))
    if agreement is None:
        return by_calls(kind, group, name, model)
    if not agreement.calls:
        return Row(kind, group, name, True, "not built", "no attention call came from the tiny model")
    figures = f"{agreement.difference:.1e}, {agreement.calls} calls"
    return Row(kind, group, name, True, "agrees" if agreement.agrees else "refused", figures)


def by_calls(kind: str, group: str, name: str, model: PreTrainedModel) -> Row:
    """A model that reads no text: each of its attention calls against the eager function of its source."""
    ratios: list[float] = []
    try:
        given = image_or_sound(model)
        with torch.no_grad(), watch.watching(lambda call: ratios.append(own_eager_ratio(call))):
            model(**given)
    except SizeMismatch as error:
        return Row(kind, group, name, True, "not built", one_line(error))
    except QkvError as error:
        return Row(kind, group, name, True, "refused", one_line(error))
    except Exception as error:  # noqa: BLE001 # as above
        return Row(kind, group, name, True, "not built", one_line(error))
    if not ratios:
        return Row(kind, group, name, True, "not built", "its attention was not called by these inputs")
    outcome = "agrees" if max(ratios) <= 1.0 else "refused"
    return Row(kind, group, name, True, outcome, f"{max(ratios):.1e} of the rounding bound, {len(ratios)} calls")


def one_line(error: Exception) -> str:
    """The first line of a message, short."""
    first = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {first}")[:140].replace("|", "/")


def page(rows: list[Row]) -> str:
    """The documentation page."""
    counted = Counter(row.outcome for row in rows)
    lines = [
        "# Families of transformers, and whether they run on qkv",
        "",
        f"Made by `scripts/transformers_families.py` for transformers {hf.auto.__version__}: {len(rows)} families.",
        "",
        *(f"- **{title.lower()}** ({counted[name]}): {meaning}" for name, (title, meaning) in OUTCOMES.items()),
    ]
    for outcome, (title, _) in OUTCOMES.items():
        lines += ["", f"## {title}"]
        for group in dict.fromkeys(row.group for row in rows):
            chosen = [row for row in rows if row.outcome == outcome and row.group == group]
            if chosen and outcome == "refused":
                lines += ["", f"### {group.capitalize()} ({len(chosen)})", ""]
                lines += [f"- `{row.family}`: {row.detail}" for row in chosen]
            elif chosen:
                names = ", ".join(f"`{row.family}`" for row in chosen)
                lines += [
                    "",
                    f"### {group.capitalize()} ({len(chosen)})",
                    "",
                    *textwrap.wrap(names, 118, break_on_hyphens=False),
                ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page, or prints the rows of the families that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*")
    asked = parser.parse_args().family
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    torch.set_num_threads(1)
    rows = []
    for kind, (group, name) in groups().items():
        if asked and kind not in asked:
            continue
        rows.append(examine(kind, group, name))
        print(*(str(v) for v in vars(rows[-1]).values()), sep=" | ", flush=True)
    if not asked:
        PAGE.write_text(page(rows), encoding="utf-8")
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
