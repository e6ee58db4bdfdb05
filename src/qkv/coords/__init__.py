"""Coordinates: names of axes, the patterns that list them, their roles and their sizes.

Nothing here imports torch when it is imported; only a ``Named`` that is used does. The functions on named tensors
(``sum``, ``softmax``, ...) are in ``functions``.
"""

from .axes import Axis as Axis
from .axes import Pattern as Pattern
from .axes import TensorPattern as TensorPattern
from .concat import concat as concat
from .given import arrange as arrange
from .given import name_output as name_output
from .given import pattern_of as pattern_of
from .named import Named as Named
from .named import where as where
from .pattern import parse as parse
from .pattern import parse_tensor as parse_tensor
from .roles import Roles as Roles
from .roles import roles as roles
from .sizes import Solved as Solved
from .sizes import solve as solve
from .typed import T as T
