"""When two programs are the same: the normal form of a program and its fingerprint."""

import ast
import io
from collections.abc import Mapping

from evolvent_schemas.values import canonical, sha256

DIGITS = 6
"""Significant digits of a number that count; a change below one part in a million is no new idea."""


def fingerprint(files: Mapping[str, str]) -> str:
    """Digest the normal form of a program; programs that differ in layout, comments and last digits share it."""
    return sha256(canonical({path: _normal(path, text) for path, text in files.items()}))


def _normal(path: str, text: str) -> str:
    """Reduce Python to its syntax tree without documentation; other text to its lines without trailing space."""
    if not path.endswith(".py"):
        return "\n".join(line.rstrip() for line in io.StringIO(text))
    try:
        tree = _Plain().visit(ast.parse(text))
        return ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text  # what does not parse is compared as it stands


class _Plain(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, float):
            return ast.Constant(value=float(f"{node.value:.{DIGITS}g}"))
        return node
