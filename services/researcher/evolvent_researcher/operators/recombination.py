"""Recombines the program with another parent."""

import ast
from random import Random

from evolvent_researcher.operators.composition import compose, extract, merge, part_of
from evolvent_researcher.operators.draft import Change, Draft
from evolvent_researcher.operators.syntax import Function, blocks, bound, copied, functions, missing, reachable


def recombine(rng: Random, draft: Draft) -> Change | None:
    """Take something from one donor: a part, a function's other version, or a statement."""
    if not draft.donors:
        return None
    candidate, donor = rng.choice(draft.donors)
    for take in rng.sample((_graft, _replace_function, _take_statement), k=3):
        done = take(rng, draft, donor)
        if done is not None:
            return Change(f"{done} from {candidate}")
    return None


def _graft(rng: Random, draft: Draft, donor: ast.Module) -> str | None:
    """Compose a part that the donor has and the program lacks, as if it were a snippet."""
    present = functions(draft.tree)
    live = reachable(donor, draft.functions) - set(draft.functions)
    lacking = [name for name in functions(donor) if name in live and name not in present]
    parts = [name for name in lacking if _is_part(functions(donor)[name], donor)]
    if not parts:
        return None
    name = rng.choice(parts)
    place = compose(rng, draft, extract(donor, name))
    return None if place is None else f"Take the {place}"


def _is_part(function: Function, donor: ast.Module) -> bool:
    """A function that takes `result`, `refine` or `attempt`, or that some function merely passes its arguments to."""
    if part_of(function) != "construction":
        return True
    signature = ast.unparse(function.args)
    return any(
        ast.unparse(other.args) == signature and f"{function.name}({signature})" in ast.unparse(other)
        for other in functions(donor).values()
        if other is not function
    )


def _replace_function(rng: Random, draft: Draft, donor: ast.Module) -> str | None:
    """Take the donor's version of a function that both define, with what it needs and the program lacks."""
    mine, theirs = functions(draft.tree), functions(donor)
    shared = [n for n in mine if n in theirs and ast.dump(mine[n]) != ast.dump(theirs[n])]
    if not shared:
        return None
    name = rng.choice(shared)
    addition = extract(donor, name)
    addition.body = [n for n in addition.body if not (isinstance(n, Function) and n.name in mine)]
    marker = ast.parse("def _nothing(): pass").body[0]
    addition.body.append(marker)
    merge(draft, addition)
    draft.tree.body = [node for node in draft.tree.body if node is not marker]
    draft.tree.body[draft.tree.body.index(mine[name])] = copied(theirs[name])
    return f"Take the function {name}"


def _take_statement(rng: Random, draft: Draft, donor: ast.Module) -> str | None:
    """Put a donor's statement into the same function, at a place where all names that it reads are bound."""
    mine, theirs = functions(draft.tree), functions(donor)
    present = {ast.unparse(s) for block in blocks(draft.tree) for s in block}
    sites = [
        (name, statement)
        for name in mine
        if name in theirs
        for block in blocks(theirs[name])
        for statement in block
        if not isinstance(statement, ast.Return) and ast.unparse(statement) not in present
    ]
    known = bound(draft.tree)
    sites = [(name, s) for name, s in sites if missing(ast.Module([s], [])) <= known]
    if not sites:
        return None
    name, statement = rng.choice(sites)
    block = rng.choice(blocks(mine[name]))
    block.insert(rng.randint(0, len(block) - isinstance(block[-1], ast.Return)), _copy(statement))
    return f"Take `{ast.unparse(statement).splitlines()[0][:80]}` in {name}"


def _copy(statement: ast.stmt) -> ast.stmt:
    wrapped = ast.parse("while 1:\n    pass").body[0]
    assert isinstance(wrapped, ast.While)
    wrapped.body = [statement]
    copy = ast.parse("async def f():\n" + _indented(ast.unparse(wrapped))).body[0]
    assert isinstance(copy, ast.AsyncFunctionDef)
    assert isinstance(copy.body[0], ast.While)
    return copy.body[0].body[0]


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
