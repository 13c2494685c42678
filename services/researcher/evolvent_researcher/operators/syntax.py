"""Reads, prints and judges Python syntax trees without running anything."""

import ast
import builtins
import warnings
from collections.abc import Iterable, Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What the parser and the printer raise on odd programs: null bytes, endless digits, deep nesting."""

_GIVEN = frozenset(dir(builtins)) | {"__file__", "__class__", "__builtins__", "__path__", "__annotations__"}


def parse(text: str) -> ast.Module | None:
    """Parse a program; none unless it also survives printing and compiling."""
    try:
        tree = _parse(text)
    except UNREADABLE:
        return None
    return tree if render(tree) is not None else None


def render(tree: ast.Module) -> str | None:
    """Print a tree; none when the text would not compile. Comments and layout are lost."""
    try:
        text = ast.unparse(tree) + "\n"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "program", "exec", dont_inherit=True)
    except UNREADABLE:
        return None
    return text


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def copied(function: Function) -> Function:
    """Copy a function by printing it."""
    copy = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(copy, Function)
    return copy


def functions(tree: ast.Module) -> dict[str, Function]:
    """Top-level functions by name; the last of a name counts."""
    return {node.name: node for node in tree.body if isinstance(node, Function)}


def names(node: ast.AST) -> list[str]:
    """Every name that is read in a tree, in the order of a walk, once."""
    reads = (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    return list(dict.fromkeys(reads))


def bindings(statement: ast.AST) -> Iterator[str]:
    """Names that one node binds itself."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.alias(name=name, asname=alias):
            yield alias or name.partition(".")[0]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
        case _:
            return


def bound(node: ast.AST) -> set[str]:
    """Every name that is bound anywhere in a tree."""
    return {name for inner in ast.walk(node) for name in bindings(inner)}


def top_level(tree: ast.Module) -> set[str]:
    """Names that the module itself binds, also under a top-level `if`, `try` or `with`."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        found.update(bindings(node))
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def defines(tree: ast.Module, required: Iterable[str]) -> bool:
    """Tell whether the module binds every required name."""
    return set(required) <= top_level(tree)


def missing(tree: ast.Module) -> set[str]:
    """Names that are read and bound nowhere: each would raise NameError when reached."""
    return set(names(tree)) - bound(tree) - _GIVEN


def owned(function: Function) -> Iterator[ast.AST]:
    """Walk the nodes of a function without those of functions and classes inside it."""
    waiting: list[ast.AST] = list(reversed(function.body))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def blocks(tree: ast.AST) -> list[list[ast.stmt]]:
    """Every list of statements inside functions, outermost first."""
    found: list[list[ast.stmt]] = []
    for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
        inside = (n for n in owned(function) if not isinstance(n, Function | ast.ClassDef | ast.Lambda | ast.IfExp))
        for node in [function, *inside]:
            lists = (getattr(node, name, None) for name in ("body", "orelse", "finalbody"))
            found.extend(block for block in lists if isinstance(block, list) and block)
    return found


def reachable(tree: ast.Module, roots: Iterable[str]) -> set[str]:
    """Names of top-level functions that the roots or the module's other statements reach."""
    known = functions(tree)
    waiting = [*roots, *(n for node in tree.body if not isinstance(node, Function) for n in names(node))]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in known and name not in found:
            found.add(name)
            waiting.extend(names(known[name]))
    return found
