"""How a spec is run: requests, capabilities, costs and the choice among strategies."""

from .capability import Capability as Capability
from .capability import Strategy as Strategy
from .capability import refusals as refusals
from .choose import choose as choose
from .choose import find as find
from .choose import forced as forced
from .choose import register as register
from .choose import strategies as strategies
from .choose import strategy as strategy
from .choose import unforced as unforced
from .cost import Cost as Cost
from .plan import Plan as Plan
from .request import Request as Request
