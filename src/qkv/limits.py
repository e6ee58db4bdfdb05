"""Every hard limit of qkv, each with its reason.

A limit is there so that hostile or generated text costs bounded time and memory, never to steer a design.
Code compares against these constants and raises ``LimitError`` (through the room that reads the input); no other
module holds a number of this kind.
"""

from __future__ import annotations

from typing import Final

# A pattern is written by hand; the longest useful one is under 300 characters, and messages print the text again.
PATTERN_CHARACTERS: Final = 4096

# torch itself stops at 64 axes, and several of its kernels at 25. Solving sizes is quadratic in the axes of a call.
AXES_PER_TENSOR: Final = 32

# Names are printed several times in one message line, and become parameter names of traced functions.
NAME_CHARACTERS: Final = 64

# Nearest-name suggestions compare the wrong name with every known one; beyond this many they are left out.
NAMES_COMPARED: Final = 256

# A function of coordinates is a line or two; the count is of the graph written out as a tree, so sharing cannot hide
# growth.
EXPRESSION_NODES: Final = 4096

# Readers descend into a graph by recursion, three Python frames for a level, and Python stops at 1000 frames.
EXPRESSION_DEPTH: Final = 200

# Bounds of captured tensors are learnt by reading them once; a larger tensor is bounded by "not known" instead.
BOUNDED_TABLE_ELEMENTS: Final = 1 << 22

# Each random block of a BigBird mask is a term of the expression; a table of blocks serves larger numbers.
RANDOM_BLOCKS: Final = 32

# The ancestors of a draft tree are a table of n x n truth values.
TREE_NODES: Final = 2048

# Score terms are composed into one graph; a list this long was made by a loop.
SCORE_TERMS: Final = 32

# Counting a mask takes time in proportion to the longer side, about four seconds at this length.
COUNTED_POSITIONS: Final = 1 << 27

# A model's config.json has some kilobytes; those with long tables of labels stay below a megabyte.
CONFIG_BYTES: Final = 16 << 20

# The deepest public models have some 130 layers; each layer is an object of its own.
MODEL_LAYERS: Final = 4096

# Sizes are exact integers of any length; this stops numbers that no machine holds, whose products would be printed.
SIZE_COUNT: Final = 1 << 60

# Metadata of a GGUF file is a few dozen entries, whose longest arrays are vocabularies and merges.
GGUF_ENTRIES: Final = 65_536
GGUF_ITEMS: Final = 16_000_000
GGUF_TEXT_BYTES: Final = 16_000_000

# A probe starts a thread of the system's for each, and more than there are processors measure nothing.
PROBE_THREADS: Final = 1024

# A probe's array is written once and read a dozen times; the largest caches hold a gigabyte.
PROBE_BYTES: Final = 1 << 33
