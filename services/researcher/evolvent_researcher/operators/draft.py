"""What an operator works on and what it reports."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True, slots=True)
class Snippet:
    """The code of one knowledge item."""

    id: str
    title: str
    code: str
    """Python source; how it is composed into a program stands in the composition module."""


@dataclass(slots=True)
class Draft:
    """One file of a program under edit; operators change the tree in place."""

    path: str
    tree: ast.Module
    functions: tuple[str, ...]
    """The functions that the program must define, of which this file defines some."""
    donors: Sequence[tuple[str, ast.Module]] = ()
    """The same file of the other parents, by candidate id. Never changed."""
    snippets: Sequence[Snippet] = ()
    elsewhere: str = ""
    """The text of the program's other files."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator did."""

    motivation: str
    cited: tuple[str, ...] = field(default=())


Operator = Callable[[Random, Draft], Change | None]
"""Changes the draft, or returns none when it does not apply; a draft it gave up on is thrown away."""
