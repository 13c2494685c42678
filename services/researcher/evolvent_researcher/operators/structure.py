"""Mutates the statements, loops and operators of a program."""

import ast
from collections.abc import Callable
from random import Random

from evolvent_researcher.operators.composition import layers
from evolvent_researcher.operators.constants import change
from evolvent_researcher.operators.draft import Change, Draft
from evolvent_researcher.operators.syntax import blocks

_SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.Div),
    ast.Div: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
"""Division never stands in for a sum: what is added may be zero."""

Edit = Callable[[Random, Draft], str | None]


def mutate_structure(rng: Random, draft: Draft) -> Change | None:
    """Make one structural edit; the kinds are tried in a drawn order until one applies."""
    for edit in _order(rng):
        done = edit(rng, draft)
        if done is not None:
            return Change(done)
    return None


def _order(rng: Random) -> list[Edit]:
    """Draw all edits without replacement; the ones that keep a program sound come first more often."""
    keyed = [(rng.random() ** (1 / weight), edit) for edit, weight in _WEIGHTS.items()]
    return [edit for _, edit in sorted(keyed, key=lambda pair: -pair[0])]


def _relayer(rng: Random, draft: Draft) -> str | None:
    """Drop, repeat or exchange one of the refinements that are nested around a value."""
    calls = layers(draft.tree)
    if not calls:
        return None
    call, inner = rng.choice(calls)
    name = ast.unparse(call.func)
    deeper = next((pair for pair in calls if pair[0] is call.args[inner]), None)
    choice = rng.choice(("drop", "repeat", "exchange") if deeper else ("drop", "repeat"))
    if choice == "drop":
        _replace(draft.tree, call, call.args[inner])
        return f"Drop the refinement {name}"
    if choice == "exchange" and deeper is not None:
        other, place = deeper
        _replace(draft.tree, call, other)
        call.args[inner], other.args[place] = other.args[place], call
        return f"Exchange the refinements {name} and {ast.unparse(other.func)}"
    call.args[inner] = ast.parse(ast.unparse(call), mode="eval").body
    return f"Apply the refinement {name} twice"


def _replace(tree: ast.AST, old: ast.expr, new: ast.expr) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list) and any(item is old for item in value):
                setattr(parent, name, [new if item is old else item for item in value])
                return


def _recount(rng: Random, draft: Draft) -> str | None:
    """Change how often a counted loop runs."""
    counts = [
        argument
        for node in ast.walk(draft.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"
        for argument in node.args
        if isinstance(argument, ast.Constant) and type(argument.value) is int
    ]
    if not counts:
        return None
    return f"Change a loop's count from {change(rng, rng.choice(counts))}"


def _swap_operator(rng: Random, draft: Draft) -> str | None:
    sites = [
        (node, field)
        for node in ast.walk(draft.tree)
        for field in ("op", "ops")
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp | ast.Compare) and _swappable(node, field)
    ]
    if not sites:
        return None
    node, field = rng.choice(sites)
    before = ast.unparse(node)
    operator = node.ops[0] if isinstance(node, ast.Compare) else node.op
    new = rng.choice(_SWAPS[type(operator)])()
    setattr(node, field, [new, *node.ops[1:]] if isinstance(node, ast.Compare) else new)
    return f"Turn `{before}` into `{ast.unparse(node)}`"


def _swappable(node: ast.AST, field: str) -> bool:
    value = getattr(node, field, None)
    return type(value[0] if isinstance(value, list) else value) in _SWAPS


def _delete(rng: Random, draft: Draft) -> str | None:
    found = [(block, index) for block in blocks(draft.tree) for index in range(len(block)) if len(block) > 1]
    if not found:
        return None
    block, index = rng.choice(found)
    return f"Delete `{_headline(block.pop(index))}`"


def _duplicate(rng: Random, draft: Draft) -> str | None:
    found = [(block, index) for block in blocks(draft.tree) for index in range(len(block)) if _plain(block[index])]
    if not found:
        return None
    block, index = rng.choice(found)
    copy = ast.parse(ast.unparse(block[index])).body[0]
    block.insert(index + 1, copy)
    return f"Do `{_headline(copy)}` twice"


def _exchange(rng: Random, draft: Draft) -> str | None:
    found = [(block, index) for block in blocks(draft.tree) for index in range(len(block) - 1)]
    found = [(block, index) for block, index in found if not isinstance(block[index + 1], ast.Return)]
    if not found:
        return None
    block, index = rng.choice(found)
    block[index], block[index + 1] = block[index + 1], block[index]
    return f"Do `{_headline(block[index])}` before `{_headline(block[index + 1])}`"


def _wrap_in_loop(rng: Random, draft: Draft) -> str | None:
    """Repeat one statement, or two that follow each other."""
    found = [(block, index) for block in blocks(draft.tree) for index in range(len(block)) if _repeatable(block[index])]
    if not found:
        return None
    block, index = rng.choice(found)
    end = index + 1 + (index + 1 < len(block) and _repeatable(block[index + 1]) and rng.random() < 0.5)
    loop = ast.parse(f"for _ in range({rng.randint(2, 5)}):\n    pass").body[0]
    assert isinstance(loop, ast.For)
    loop.body = block[index:end]
    block[index:end] = [loop]
    return f"Repeat `{_headline(loop.body[0])}` in a loop"


def _plain(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return False
    return isinstance(statement, ast.Assign | ast.AugAssign | ast.Expr | ast.For | ast.While | ast.If)


def _repeatable(statement: ast.stmt) -> bool:
    leaves = (ast.Break, ast.Continue, ast.Return)
    return _plain(statement) and not any(isinstance(node, leaves) for node in ast.walk(statement))


def _headline(statement: ast.stmt) -> str:
    return ast.unparse(statement).split("\n", 1)[0][:80]


_WEIGHTS: dict[Edit, float] = {
    _relayer: 3,
    _recount: 3,
    _wrap_in_loop: 1,
    _duplicate: 1,
    _exchange: 1,
    _swap_operator: 1,
    _delete: 1,
}
