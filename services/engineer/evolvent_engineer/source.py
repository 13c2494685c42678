"""The check of a candidate's files before anything of it runs."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from evolvent_schemas.values import ProgramSpec


def fault(files: Mapping[str, str], program: ProgramSpec) -> str | None:
    """Name the first thing that keeps a program from being imported, or none.

    Checked: safe paths, the entry file, the syntax of every `.py` file, and a binding at the top level of the
    entry file for every required function. Nothing is executed.
    """
    if program.entry not in files:
        return f"the program has no file {program.entry!r}; it has {sorted(files)}"
    for path, text in files.items():
        if message := _path_fault(path) or _syntax_fault(path, text):
            return message
    missing = set(program.functions) - set(_bound(ast.parse(files[program.entry]).body))
    return f"{program.entry} does not define {', '.join(sorted(missing))}" if missing else None


def _path_fault(path: str) -> str | None:
    pure = PurePosixPath(path)
    plain = path and not pure.is_absolute() and ".." not in pure.parts and str(pure) == path and "\0" not in path
    return None if plain else f"{path!r} is not a plain relative path"


def _syntax_fault(path: str, text: str) -> str | None:
    if not path.endswith(".py"):
        return None
    try:
        ast.parse(text, filename=path)
    except SyntaxError as error:
        return f"{path}:{error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, or nested beyond the parser's stack
        return f"{path}: {error}"
    return None


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
            case ast.If(body=inner, orelse=other):
                yield from _bound(inner + other)
            case ast.Try(body=inner, handlers=handlers, orelse=other):
                yield from _bound(inner + other + [s for handler in handlers for s in handler.body])
            case _:
                pass
