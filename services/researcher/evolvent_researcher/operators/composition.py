"""Composes known code into a program.

A snippet is a Python module. Its imports, constants and functions are merged into the program; names that the program
already has keep the program's constants, and a function of another body under a taken name is renamed. Its *last*
function decides by its name and first parameter how the program comes to use it:

=============  =================================  ==========================================================
part           last function of the snippet       what becomes of `return X` in the entry function `pack(n)`
=============  =================================  ==========================================================
refinement     `def polish(result, *arguments)`   `return polish(X, n)`
search         `def hop(refine, result, *a…)`     `polish(X, n)` becomes `hop(polish, X, n)`
repetition     `def best_of(attempt, *a…)`        `pack` becomes `pack_once`, `pack` returns `best_of(pack_once, n)`
construction   `def rows(n)`, or named `pack`     `return rows(n)`, with the refinements that stood around X
variant        any other, as `def features(x)`    stands in for another function with the parameters `(x)`
=============  =================================  ==========================================================

A construction has the parameters of the entry function, by name. A refinement returns what it is given, improved;
`arguments` are those of the entry function. Where several entry functions or places qualify, one is drawn.
"""

import ast
from collections.abc import Iterator
from random import Random
from typing import Literal

from evolvent_researcher.operators.draft import Change, Draft, Snippet
from evolvent_researcher.operators.syntax import (
    Function,
    copied,
    expression,
    functions,
    names,
    owned,
    parse,
    reachable,
    top_level,
)

Part = Literal["refinement", "search", "repetition", "construction", "variant"]
_ORDER: tuple[Part, ...] = ("construction", "variant", "refinement", "search", "repetition")
COUNTS = (1, 1, 1)
"""How often one, two or three snippets go in at once."""
_PARTS: dict[str, Part] = {"result": "refinement", "refine": "search", "attempt": "repetition"}


def insert_snippets(rng: Random, draft: Draft) -> Change | None:
    """Compose one or more of the snippets that the program does not have yet, constructions first."""
    fresh = [(snippet, tree) for snippet, tree in _readable(draft) if not _has(draft, _last(tree))]
    count = rng.choices((1, 2, 3), weights=COUNTS)[0]
    drawn = rng.sample(fresh, k=min(count, len(fresh)))
    drawn.sort(key=lambda pair: _ORDER.index(part_of(_last(pair[1]))))
    # A second construction would take the place of the first.
    starts = sum(part_of(_last(tree)) == "construction" for _, tree in drawn)
    placed = [(snippet, compose(rng, draft, tree)) for snippet, tree in drawn[max(starts - 1, 0) :]]
    used = [(snippet, place) for snippet, place in placed if place is not None]
    said = ", and ".join(f"{snippet.title} ({place})" for snippet, place in used)
    return Change(f"Use what is known: {said}", tuple(snippet.id for snippet, _ in used)) if used else None


def _readable(draft: Draft) -> Iterator[tuple[Snippet, ast.Module]]:
    for snippet in draft.snippets:
        tree = parse(snippet.code)
        if tree is not None and functions(tree):
            yield snippet, tree


def _has(draft: Draft, last: Function) -> bool:
    """Tell whether a part is in the program: under its name, or, named like the entry, with its body."""
    if last.name not in draft.functions:
        return last.name in functions(draft.tree)
    body = ast.dump(ast.Module(last.body, []))
    return any(ast.dump(ast.Module(function.body, [])) == body for function in functions(draft.tree).values())


def part_of(function: Function) -> Part:
    """Tell what a function is for from its first parameter."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    return _PARTS.get(arguments[0].arg if arguments else "", "construction")


def compose(rng: Random, draft: Draft, addition: ast.Module) -> str | None:
    """Merge a module into the draft and use its last function; say where, or none when it fits nowhere."""
    entries = [functions(draft.tree)[name] for name in draft.functions if name in functions(draft.tree)]
    entries = [entry for entry in entries if not isinstance(entry, ast.AsyncFunctionDef) and _returns(entry)]
    last = _last(addition)
    if last.name in draft.functions:
        entries = [entry for entry in entries if entry.name == last.name]
    if not entries or isinstance(last, ast.AsyncFunctionDef):
        return None
    part, former = part_of(last), list(draft.tree.body)
    if part == "construction":
        fitting = [entry for entry in entries if _parameters(entry) == _parameters(last)]
        part, entries = ("construction", fitting) if fitting else ("variant", entries)
    entry = rng.choice(entries)
    name = merge(draft, addition)
    site = entry if part == "repetition" else rng.choice(_sites(draft.tree, entry))
    if not _COMPOSERS[part](rng, draft, site, name):
        draft.tree.body = former
        return None
    return f"{part} {name} in {site.name}"


def _last(tree: ast.Module) -> Function:
    return list(functions(tree).values())[-1]


def _returns(function: Function) -> list[ast.Return]:
    nodes = list(owned(function))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes):
        return []
    return [node for node in nodes if isinstance(node, ast.Return) and node.value is not None]


def _sites(tree: ast.Module, entry: Function) -> list[Function]:
    """The entry function and the former entry functions that a repetition calls for it."""
    known, found = functions(tree), [entry]
    for site in found:
        for node in owned(site):
            if isinstance(node, ast.Call) and _part(tree, node) == "repetition":
                inner = known.get(getattr(node.args[0], "id", "")) if node.args else None
                if inner is not None and inner not in found and _returns(inner):
                    found.append(inner)
    return found


def _part(tree: ast.Module, call: ast.Call) -> Part | None:
    function = functions(tree).get(call.func.id) if isinstance(call.func, ast.Name) else None
    return part_of(function) if function is not None else None


def layers(tree: ast.Module) -> list[tuple[ast.Call, int]]:
    """Calls of refinements and searches, with the place of the argument that they refine."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    placed = [(call, {"refinement": 0, "search": 1}.get(_part(tree, call) or "")) for call in calls]
    return [(call, place) for call, place in placed if place is not None and len(call.args) > place]


def _refine(rng: Random, draft: Draft, site: Function, name: str) -> bool:
    """Wrap every returned value; one time in four around the innermost refinement's input instead."""
    inside = rng.random() < 0.25
    for node in _returns(site):
        assert node.value is not None
        chain = _chain(draft.tree, node.value)
        if inside and chain:
            call, place = chain[-1]
            call.args[place] = _call(name, site, call.args[place])
        else:
            node.value = _call(name, site, node.value)
    return True


def _search(rng: Random, draft: Draft, site: Function, name: str) -> bool:
    """Hand one refinement of a returned value to the search."""
    chains = [_chain(draft.tree, node.value) for node in _returns(site) if node.value is not None]
    calls = [call for chain in chains for call, place in chain if place == 0]
    if not calls:
        return False
    call = rng.choice(calls)
    call.args.insert(0, call.func)
    call.func = expression(name)
    return True


def _repeat(rng: Random, draft: Draft, site: Function, name: str) -> bool:  # noqa: ARG001
    """Put the repetition in the entry function's place and keep the former one beside it."""
    once = fresh_name(f"{site.name}_once", top_level(draft.tree))
    outer = copied(site)
    outer.body = [ast.Return(_call(name, site, expression(once)))]
    outer.decorator_list = []
    _rename_reads(site, site.name, once)
    draft.tree.body.insert(draft.tree.body.index(site) + 1, outer)
    site.name = once
    return True


def _construct(rng: Random, draft: Draft, site: Function, name: str) -> bool:  # noqa: ARG001
    """Start from another construction and keep the refinements that stood around the old one."""
    value = _returns(site)[-1].value
    assert value is not None
    chain = _chain(draft.tree, value)
    start = _call(name, site)
    if chain:
        call, place = chain[-1]
        call.args[place] = start
    site.body = [ast.Return(value if chain else start)]
    return True


def _vary(rng: Random, draft: Draft, site: Function, name: str) -> bool:  # noqa: ARG001
    """Call the function wherever another one with the same parameters was called."""
    known = functions(draft.tree)
    same = [other for other in known if _parameters(known[other]) == _parameters(known[name])]
    rivals = [other for other in same if other != name and other not in draft.functions]
    if not rivals:
        return False
    _rename_reads(draft.tree, rng.choice(rivals), name)
    return True


def _rename_reads(tree: ast.AST, old: str, new: str) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == old:
            node.id = new


_COMPOSERS = {
    "refinement": _refine,
    "search": _search,
    "repetition": _repeat,
    "construction": _construct,
    "variant": _vary,
}


def _parameters(function: Function) -> list[str]:
    """The names of a function's parameters, as far as a caller must know them."""
    given = function.args
    return [a.arg for a in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg] if a]


def _chain(tree: ast.Module, value: ast.expr) -> list[tuple[ast.Call, int]]:
    """The refinements nested around a value, outermost first."""
    places = {id(call): place for call, place in layers(tree)}
    found: list[tuple[ast.Call, int]] = []
    while isinstance(value, ast.Call) and id(value) in places:
        found.append((value, places[id(value)]))
        value = value.args[places[id(value)]]
    return found


def _call(name: str, site: Function, *first: ast.expr) -> ast.Call:
    """Call a function with the given values and then the site's own arguments."""
    own: list[ast.expr] = [expression(a.arg) for a in [*site.args.posonlyargs, *site.args.args]]
    if site.args.vararg:
        own.append(ast.Starred(expression(site.args.vararg.arg)))
    keywords = [ast.keyword(a.arg, expression(a.arg)) for a in site.args.kwonlyargs]
    if site.args.kwarg:
        keywords.append(ast.keyword(None, expression(site.args.kwarg.arg)))
    return ast.Call(expression(name), [*first, *own], keywords)


def fresh_name(wanted: str, taken: set[str]) -> str:
    numbered = (f"{wanted}_{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (wanted, *numbered) if name not in taken)


def merge(draft: Draft, addition: ast.Module) -> str:
    """Merge a module's statements into the draft; return the name that its last function has there."""
    taken = top_level(draft.tree)
    same = {name for name, node in functions(addition).items() if _same(node, functions(draft.tree).get(name))}
    renamed = {name: fresh_name(name, taken) for name in functions(addition) if name in taken and name not in same}
    last = _last(addition).name
    _rename(addition, renamed)
    keep = [node for node in addition.body if _is_new(node, taken, same)]
    imports = [node for node in keep if isinstance(node, ast.Import | ast.ImportFrom)]
    others = [node for node in keep if not isinstance(node, ast.Import | ast.ImportFrom)]
    start, present = _after_imports(draft.tree), {ast.unparse(node) for node in draft.tree.body}
    draft.tree.body[start:start] = [*(node for node in imports if ast.unparse(node) not in present), *others]
    return renamed.get(last, last)


def _same(node: Function, other: Function | None) -> bool:
    return other is not None and ast.dump(node) == ast.dump(other)


def _rename(tree: ast.AST, renamed: dict[str, str]) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = renamed.get(node.id, node.id)
        elif isinstance(node, Function):
            node.name = renamed.get(node.name, node.name)


def _is_new(node: ast.stmt, taken: set[str], same: set[str]) -> bool:
    match node:
        case ast.ImportFrom(module="__future__"):
            return False
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name not in same
        case ast.ClassDef(name=name):
            return name not in taken
        case ast.Assign() | ast.AnnAssign():
            return not top_level(ast.Module([node], [])) & taken
        case _:
            return False


def _after_imports(tree: ast.Module) -> int:
    """Where new definitions go: below the docstring and the last import that no other statement precedes."""
    place = 0
    for index, node in enumerate(tree.body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not isinstance(node, ast.Import | ast.ImportFrom):
            break
        place = index + 1
    return place


def prune(draft: Draft, idle: set[str]) -> None:
    """Remove the functions that nothing calls, except those that were idle before the edit or that other files name."""
    called = reachable(draft.tree, draft.functions)
    dead = {name for name in set(functions(draft.tree)) - called - idle if name not in draft.elsewhere}
    draft.tree.body = [n for n in draft.tree.body if not (isinstance(n, Function) and n.name in dead)]


def extract(tree: ast.Module, name: str) -> ast.Module:
    """Cut one top-level function out of a program, after everything at module level that it needs."""
    wanted: set[str] = {name}
    waiting: list[ast.stmt] = [functions(tree)[name]]
    owners = {binding: node for node in tree.body for binding in top_level(ast.Module([node], []))}
    needed: list[ast.stmt] = []
    while waiting:
        for read in names(waiting.pop()):
            node = owners.get(read)
            if node is not None and read not in wanted:
                wanted.add(read)
                needed.append(node)
                waiting.append(node)
    body = [node for node in tree.body if node in needed and node is not functions(tree)[name]]
    text = "\n".join(ast.unparse(node) for node in [*body, functions(tree)[name]])
    return ast.parse(text)
