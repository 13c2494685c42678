"""Build HTML and SVG in which every text is escaped, because everything from the log is untrusted."""

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no reader sees: control characters, and direction marks that make a text read otherwise than it runs."""

VOID = frozenset({"meta", "br", "input", "circle", "line", "path", "rect", "polyline"})
"""Elements without content; the last four are SVG's and closed by a slash."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | Iterable[Child] | None"
Attribute: TypeAlias = str | float | bool | None


def plain(text: str) -> str:
    """Replace what no reader sees by U+FFFD."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def escape(text: str) -> Markup:
    """Make a text safe between tags and within quoted attributes."""
    return Markup(html.escape(plain(text), quote=True))


def join(children: Child, by: str = "") -> Markup:
    """Join markup as it is and everything else escaped."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return escape(children)
    return Markup(by.join(join(child) for child in children))


def el(tag: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Build an element; `class_` is `class`, `_` within a name is `-`, true is a bare attribute, none is left out."""
    shown = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    if tag in VOID:
        return Markup(f"<{tag}{shown}/>")
    return Markup(f"<{tag}{shown}>{join(children)}</{tag}>")


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
