"""Coordinates: names of axes, the patterns that list them, their roles and their sizes.

Nothing here imports torch when it is imported; only a ``Named`` that is used does.
"""

from .axes import Axis as Axis
from .pattern import Pattern as Pattern
from .pattern import TensorPattern as TensorPattern
from .pattern import parse as parse
from .pattern import parse_tensor as parse_tensor
from .roles import Roles as Roles
from .roles import roles as roles
from .sizes import Solved as Solved
from .sizes import solve as solve
