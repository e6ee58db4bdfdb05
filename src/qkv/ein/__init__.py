"""The Einlang notation: read, check, lower and run tensor programs whose axes have names.

``load`` and ``source`` give the functions of a text, ``check`` its diagnostics; ``docs/einlang.md`` is the reference.
"""

from .door import check as check
from .door import load as load
from .door import source as source
from .door import std as std
from .module import Module as Module

__all__ = ["Module", "check", "load", "source", "std"]
