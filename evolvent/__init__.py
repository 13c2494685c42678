"""Evolvent: event-sourced autonomous research over NATS JetStream.

The public API is `evolvent.api`; its names are loaded when they are first used, so that this import costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolvent.api import Best, Lab, Run, open  # noqa: A004 - read as `evolvent.open`
    from evolvent.errors import EvolventError, Refused, Unreachable

_HOMES = {
    "Best": "evolvent.api",
    "EvolventError": "evolvent.errors",
    "Lab": "evolvent.api",
    "Refused": "evolvent.errors",
    "Run": "evolvent.api",
    "Unreachable": "evolvent.errors",
    "open": "evolvent.api",
}

__all__ = ["Best", "EvolventError", "Lab", "Refused", "Run", "Unreachable", "open"]


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
