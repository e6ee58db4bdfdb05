"""What is computed: the spec and its lowered form."""

from .lowered import Lowered as Lowered
from .lowered import lower as lower
from .spec import DEFAULT_PATTERN as DEFAULT_PATTERN
from .spec import WANTS as WANTS
from .spec import Spec as Spec
from .spec import door as door
from .spec import hang as hang
