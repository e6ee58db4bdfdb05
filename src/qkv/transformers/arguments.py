"""What transformers' models send along with query, key, value and mask, and what becomes of each argument.

An argument either changes the result, and is then honoured in ``attention``; or it is listed here with the reason why
it may be left aside; or it is refused by name, because leaving it aside could change the result silently. None and
False say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import SpecError

IGNORED: Final[Mapping[str, str]] = {
    "cu_seq_lens_q": "packed sequences: the mask says the same, and without a mask the argument is refused",
    "cu_seq_lens_k": "as cu_seq_lens_q",
    "max_length_q": "the longest packed sequence: a hint for kernels",
    "max_length_k": "as max_length_q",
    "position_ids": "already in the mask, and in the rotated queries and keys",
    "cache_position": "already in the mask",
    "seq_idx": "read by recurrent layers; the mask says the same to attention",
    "deterministic": "every strategy gives the same bits for the same plan",
    "use_cache": "the cache is updated by the model before attention",
    "past_key_values": "the cache is updated by the model before attention",
    "past_key_value": "older name of past_key_values",
    "output_hidden_states": "read by the model's outer layers",
    "output_router_logits": "read by expert layers",
    "return_dict": "read by the model's outer layers",
    "num_items_in_batch": "read by the loss",
    "labels": "read by the loss",
    "logits_to_keep": "read by the language-model head",
    "token_type_ids": "read by embeddings, and by the mask where a model masks with them",
    "mm_token_type_ids": "as token_type_ids",
    "position_embeddings": "already applied to queries and keys",
    "input_ids": "read by embeddings",
    "inputs_embeds": "read before the first layer",
    "layer_idx": "the number of the layer; the call does not depend on it",
    "block_table": "part of `cache`, which is honoured or refused",
    "read_index": "part of `cache`",
    "write_index": "part of `cache`",
    "logits_indices": "read by continuous batching after the last layer",
    "logits_processor_args": "read by continuous batching after the last layer",
}
"""Arguments that may be left aside, each with its reason."""


def refuse_unknown(arguments: Mapping[str, Any], model: str) -> None:
    """Nothing, when every argument is known to be meaningless here or says nothing (None, False).

    Raises ``SpecError`` that names the others.
    """
    unknown = [
        name for name, value in arguments.items() if name not in IGNORED and value is not None and value is not False
    ]
    if unknown:
        names = ", ".join(f"`{name}`" for name in sorted(unknown))
        raise SpecError(
            f"{model} sends {names} to its attention, and qkv does not know what that asks for.\n"
            "    known: scaling, sliding_window, softcap, s_aux, position_bias, dropout, is_causal, cache, indices, "
            "output_attentions\n"
            '  Leaving it aside could change the result. Load the model with attn_implementation="eager".'
        )
