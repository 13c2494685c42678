"""Mutates the numbers of a program; each keeps its kind, its sign and, if it was not zero, its distance from zero."""

import ast
import math
from collections.abc import Iterator
from random import Random

from evolvent_researcher.operators.draft import Change, Draft

LARGEST = 10**12
"""Integers beyond this are ids or masks, not quantities, and are left alone."""

NAMED = 4.0
"""Weight of a number that stands alone under a module-level name, against 1 for one inside an expression."""


def mutate_constants(rng: Random, draft: Draft) -> Change | None:
    """Change one to three numbers of the file."""
    found = list(_sites(draft.tree))
    if not found:
        return None
    count = rng.choices((1, 2, 3), weights=(6, 3, 1))[0]
    chosen = []
    for _ in range(min(count, len(found))):
        place = rng.choices(range(len(found)), [weight for _, weight in found])[0]
        chosen.append(found.pop(place)[0])
    return Change("Change the constants " + ", ".join(change(rng, node) for node in chosen))


def change(rng: Random, node: ast.Constant) -> str:
    """Change one number in place and say how."""
    assert isinstance(node.value, int | float), "only quantities are changed"
    before = node.value
    node.value = mutated(rng, before)
    return f"{before!r} to {node.value!r}"


def mutated(rng: Random, value: int | float) -> int | float:  # noqa: PYI041
    """Draw another value of the same kind, finite, of the same sign, never zero unless it was.

    The spread, half a natural logarithm, spans a factor of three either way in most draws.
    """
    if value == 0:
        return rng.randint(1, 3) if isinstance(value, int) else rng.choice((1e-3, 1e-2, 0.1))
    scaled = value * math.exp(rng.gauss(0, 0.5))
    if isinstance(value, int):
        step = rng.choice((value - 1, value + 1, value * 2, value // 2, round(scaled)))
        return step if step not in (0, value) and (step > 0) == (value > 0) else value + (1 if value > 0 else -1)
    rounded = float(f"{scaled:.{rng.randint(0, 3)}e}")
    return rounded if math.isfinite(rounded) and rounded not in (0.0, value) else value / 2 or value


def _sites(tree: ast.Module) -> Iterator[tuple[ast.Constant, float]]:
    named = {id(node) for node in tree.body if isinstance(node, ast.Assign)}
    for parent in ast.walk(tree):
        if isinstance(parent, ast.FormattedValue | ast.MatchValue | ast.AnnAssign):
            continue
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, ast.Constant) and _is_quantity(child.value):
                yield child, NAMED if id(parent) in named else _weight(parent, child.value)


def _is_quantity(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST and math.isfinite(value)


def _weight(parent: ast.AST, value: object) -> float:
    """Indices, exponents, flags such as `axis=1`, small whole numbers and tolerances are rarely worth a change."""
    if isinstance(parent, ast.Subscript | ast.Slice):
        return 0.02
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow):
        return 0.1
    assert isinstance(value, int | float), "only quantities are weighed"
    return 0.15 if value in (0, 1, 2, 3) or abs(value) < 1e-5 else 1.0
