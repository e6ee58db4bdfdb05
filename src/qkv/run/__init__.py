"""Running specs: the strategies, and the door through which every call goes. Importing this registers both."""

from ..plan import register
from .absorbed import Absorbed
from .call import attention as attention
from .chunked import Chunked
from .cpu import Cpu
from .linear import LinearState as LinearState
from .linear import LinearStrategy
from .linear import linear_step as linear_step
from .merge import merge as merge
from .reference import Reference
from .result import Result as Result
from .sdpa import Sdpa

for _strategy in (Reference(), Chunked(), Cpu(), Sdpa(), LinearStrategy(), Absorbed()):
    register(_strategy)
