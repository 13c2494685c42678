"""Reads folders of knowledge: one item per Markdown file, one per line of a JSONL file."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from evolvent.errors import Refused
from evolvent_schemas.values import KnowledgeItem

HEADER_KEYS = ("id", "title", "source", "applies")
"""What the front matter of a Markdown item may hold; the body is the insight and its one Python fence the code."""

_FENCE = re.compile(r"^```python[ \t]*\n(.*?)^```[ \t]*$\n?", re.MULTILINE | re.DOTALL)
_OPENING = re.compile(r"^```python\b", re.MULTILINE)


def load(folder: Path) -> list[KnowledgeItem]:
    """Read every `*.md` and `*.jsonl` below a folder, sorted by id; an empty folder holds no items.

    Raises:
        Refused: the folder is missing, or an item is malformed or has the id of another.
    """
    if not folder.is_dir():
        raise Refused(f"{folder}: there is no such folder of knowledge")
    found: dict[str, tuple[str, KnowledgeItem]] = {}
    for path in sorted(folder.rglob("*")):
        for place, item in _items(path):
            if item.id in found:
                raise Refused(f"{place}: the id {item.id!r} is already that of {found[item.id][0]}; give it another")
            found[item.id] = (place, item)
    return [found[key][1] for key in sorted(found)]


def parse_markdown(text: str, *, name: str = "knowledge.md") -> KnowledgeItem:
    """Read one item: `key: value` lines between two `---` lines, then the insight, with at most one Python fence.

    Raises:
        Refused: the text is no item; the message names `name`, the line and the nearest valid key.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if lines[0].rstrip() != "---":
        raise Refused(f"{name}:1: an item starts with a line `---`, then its id and title")
    ends = [number for number, line in enumerate(lines) if number and line.rstrip() == "---"]
    if not ends:
        raise Refused(f"{name}:{len(lines)}: the front matter is not closed by a line `---`")
    header = _header(lines[1 : ends[0]], name)
    insight, code = _body("\n".join(lines[ends[0] + 1 :]), name=name, first=ends[0] + 2)
    places = {key: number for key, (number, _) in header.items()} | {"insight": ends[0] + 2}
    values = {key: value for key, (_, value) in header.items()}
    return _item(values | {"insight": insight, "code": code}, name=name, places=places)


def parse_jsonl(text: str, *, name: str = "knowledge.jsonl") -> list[KnowledgeItem]:
    """Read one item per line, in the order of the lines; blank lines are skipped.

    Raises:
        Refused: a line is no item; the message names `name`, the line and the nearest valid key.
    """
    return [item for _, item in _jsonl(text, name)]


def _items(path: Path) -> Iterator[tuple[str, KnowledgeItem]]:
    if path.suffix not in {".md", ".jsonl"} or not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if path.suffix == ".jsonl":
        yield from _jsonl(text, str(path))
    else:
        yield f"{path}:1", parse_markdown(text, name=str(path))


def _jsonl(text: str, name: str) -> Iterator[tuple[str, KnowledgeItem]]:
    # Not str.splitlines: JSON strings may hold U+2028 and its like as they stand.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            yield f"{name}:{number}", _item(_object(line, f"{name}:{number}"), name=name, places={}, line=number)


def _object(line: str, place: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{place}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refused(f"{place}: a line holds one JSON object, not {type(value).__name__}")
    return value


def _header(lines: list[str], name: str) -> dict[str, tuple[int, str]]:
    header: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            raise Refused(f"{name}:{number}: {line!r} is not `key: value`")
        if key not in HEADER_KEYS:
            raise Refused(f"{name}:{number}: {_unknown(key, HEADER_KEYS)}")
        if key in header:
            raise Refused(f"{name}:{number}: {key!r} stands twice, first in line {header[key][0]}")
        header[key] = (number, value)
    return header


def _body(body: str, *, name: str, first: int) -> tuple[str, str]:
    """Split a body into insight and code; `first` is the number of its first line."""
    opened = list(_OPENING.finditer(body))
    if len(opened) > 1:
        number = first + body.count("\n", 0, opened[1].start())
        raise Refused(f"{name}:{number}: a second ```python fence; an item has one, split it into two items")
    fence = _FENCE.search(body)
    if opened and fence is None:
        raise Refused(f"{name}:{first + body.count(chr(10), 0, opened[0].start())}: the ```python fence is not closed")
    return _FENCE.sub("", body).strip(), fence.group(1).strip("\n") if fence else ""


def _item(values: Mapping[str, object], *, name: str, places: Mapping[str, int], line: int = 1) -> KnowledgeItem:
    """Build the item; a faulty field is reported at its own place, or at `line`."""
    try:
        return KnowledgeItem.model_validate(values)
    except ValidationError as error:
        # A misspelt key comes with a missing one, and is the more telling of the two.
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        key = str(first["loc"][0])
        fault = _unknown(key, tuple(KnowledgeItem.model_fields)) if first["type"] == "extra_forbidden" else first["msg"]
        raise Refused(f"{name}:{places.get(key, line)}: {key}: {fault}") from error


def _unknown(key: str, valid: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(key.lower(), valid, n=1, cutoff=0.0)[0]
    return f"unknown key {key!r}, did you mean {nearest!r}? Valid keys are {', '.join(valid)}"
