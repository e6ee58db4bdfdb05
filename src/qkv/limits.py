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

# A function of coordinates is a line or two; the count is of the graph written out as a tree, so sharing cannot hide growth.
EXPRESSION_NODES: Final = 4096

# Bounds of captured tensors are kept in tables of n log n numbers; a larger tensor is bounded by "not known" instead.
BOUNDED_TABLE_ELEMENTS: Final = 1 << 22
