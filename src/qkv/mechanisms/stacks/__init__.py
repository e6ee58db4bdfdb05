"""What attention is in known models: one file for each family, an entry for each model.

An entry holds what happens between the projections of queries, keys and values and that of the output; norms of queries
and keys, projections and their biases come before. Sizes are those of the model that the title names.
"""

from ..entry import Entry
from .bert import BERT
from .bloom import BLOOM
from .deepseek import DEEPSEEK_V2
from .diff import DIFF
from .falcon import FALCON_7B, FALCON_40B
from .gemma import GEMMA_2, GEMMA_3
from .gpt_oss import GPT_OSS
from .llama import LLAMA_3
from .mistral import MISTRAL
from .qwen import QWEN_2
from .t5 import T5

STACKS: tuple[Entry, ...] = (
    LLAMA_3,
    MISTRAL,
    QWEN_2,
    GEMMA_2,
    GEMMA_3,
    GPT_OSS,
    DEEPSEEK_V2,
    FALCON_7B,
    FALCON_40B,
    BLOOM,
    T5,
    BERT,
    DIFF,
)
