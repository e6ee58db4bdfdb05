"""The Einlang notation: read, check, lower and run tensor programs whose axes have names.

``load`` and ``source`` give the functions of a text, ``check`` its diagnostics; ``docs/einlang.md`` is the reference.
"""

from .door import check as check
from .door import fmt as fmt
from .door import load as load
from .door import read_file as read_file
from .door import report as report
from .door import source as source
from .door import std as std
from .door import trial as trial
from .explain import audit as audit
from .explain import explain as explain
from .explain import stub as stub
from .gradient import gradients as gradients
from .module import Module as Module

__all__ = [
    "Module",
    "audit",
    "check",
    "explain",
    "fmt",
    "gradients",
    "load",
    "read_file",
    "report",
    "source",
    "std",
    "stub",
    "trial",
]
