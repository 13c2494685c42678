"""Turn a model's answer into a program: whole files, or strict SEARCH/REPLACE edits of a given one.

An answer is prose around fenced blocks. The first word after an opening fence says what the block is, the rest of the
line is the file's path:

- ```` ```python path ````, or any other language: the whole text of the file, new or replaced;
- ```` ```edit path ````: one or several SEARCH/REPLACE pairs for a file that exists;
- ```` ```delete path ````: nothing; the file goes.

A fence ends at the first line of at least as many backticks, and a pair's markers are as long as its first, so that
longer ones can hold texts that contain either. A block that is only `json` is the caller's. Line ends become
line feeds.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from evolvent.models import UnusableAnswer
from evolvent_schemas.values import ProgramPath

ANSWER_BYTES = 4 << 20
"""Largest answer that is read."""
PROGRAM_BYTES = 1 << 20
"""Largest program, all files together: fifty times the published best ones (17 to 21 thousand characters)."""
PROGRAM_FILES = 64
ANSWER_BLOCKS = 64
BLOCK_PAIRS = 64
MOST_FAULTS = 20
"""After so many the rest is not tried. With the limits above the worst answer to a program of 0.6 MB took 8 s."""
_SEARCHED_LINES = 5_000
"""A longer file is not searched for the closest lines, which takes 60 ms at this length."""
_CONTEXT = 2
"""Lines shown before and after the closest ones."""
_SHOWN_WIDTH = 160
"""Characters of a line that an error shows; the program itself is never cut."""

Mode = Literal["rewrite", "edits"]
_PATH: TypeAdapter[str] = TypeAdapter(ProgramPath)
_OPEN = re.compile(r"^(`{3,})([^`]*)$")
_SEARCH = re.compile(r"^(<{7,}) SEARCH[ \t]*$")


@dataclass(frozen=True)
class Fault:
    """Why one block cannot be applied."""

    block: int
    """Counted from 1, over all blocks with a path; 0 for the whole answer."""
    path: str
    reason: str

    def __str__(self) -> str:
        return f"block {self.block} ({self.path}): {self.reason}" if self.block else self.reason


class EditError(UnusableAnswer):
    """The answer gives no program. All faulty blocks are named, so that one repair turn can mend them."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("\n".join(map(str, faults)))


class _Reason(Exception):
    """Carries a reason to where the block is known."""


@dataclass(frozen=True)
class Hunk:
    """One SEARCH/REPLACE pair, in lines without their ends."""

    search: tuple[str, ...]
    replace: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One fenced block of an answer."""

    kind: str
    """The first word after the fence: `edit`, `delete`, a language, or nothing."""
    path: str
    lines: tuple[str, ...]


def blocks(answer: str) -> list[Block]:
    """List the fenced blocks of an answer.

    Raises:
        EditError: it is too large, not text, or a fence is never closed.
    """
    lines = _lines(answer)
    found: list[Block] = []
    start: int | None = None
    fence = kind = path = ""
    for number, line in enumerate(lines):
        if start is None and (opened := _OPEN.match(line)):
            start, fence = number + 1, opened[1]
            kind, _, path = opened[2].strip().partition(" ")
        elif start is not None and _closes(line, fence):
            found.append(Block(kind, path.strip(), tuple(lines[start:number])))
            start = None
    if start is not None:
        raise EditError(Fault(len(found) + 1, path or "no path", f"the fence of line {start} is never closed"))
    return found


def _lines(answer: str) -> list[str]:
    try:
        size = len(answer.encode())
    except UnicodeEncodeError:
        raise EditError(Fault(0, "", "the answer is not valid Unicode text")) from None
    if size > ANSWER_BYTES:
        raise EditError(Fault(0, "", f"the answer has {size} bytes, above the limit of {ANSWER_BYTES}"))
    return answer.replace("\r\n", "\n").split("\n")


def _closes(line: str, fence: str) -> bool:
    bare = line.rstrip()
    return len(bare) >= len(fence) and bare == "`" * len(bare)


def apply(answer: str, program: Mapping[str, str], *, mode: Mode) -> dict[str, str]:
    """Make the new program, `{path: text}`.

    With `rewrite` it is exactly the files of the answer; with `edits` the blocks are applied to `program` in their
    order. Each SEARCH must match whole lines at exactly one place, white space and all.

    Raises:
        EditError: any block is at fault, there is none, nothing changes, or a size limit is passed.
    """
    written = [block for block in blocks(answer) if (block.kind, block.path) != ("json", "")]
    if not written:
        raise EditError(Fault(0, "", "the answer holds no block with a file in it"))
    if len(written) > ANSWER_BLOCKS:
        raise EditError(Fault(0, "", f"the answer has {len(written)} blocks, above the limit of {ANSWER_BLOCKS}"))
    files = {} if mode == "rewrite" else dict(program)
    seen: set[str] = set()
    faults: list[Fault] = []
    for number, block in enumerate(written, start=1):
        if len(faults) == MOST_FAULTS:
            raise EditError(*faults, Fault(0, "", f"block {number} and those after it were not tried"))
        try:
            _apply_block(files, block, seen, mode)
        except _Reason as reason:
            faults.append(Fault(number, block.path or "no path", str(reason)))
    if faults:
        raise EditError(*faults)
    _check_program(files, program)
    return files


def _apply_block(files: dict[str, str], block: Block, seen: set[str], mode: Mode) -> None:
    _check_path(block)
    if mode == "rewrite" and block.kind in {"edit", "delete"}:
        raise _Reason(f"a full rewrite was asked for; give the whole file instead of `{block.kind}`")
    if block.kind == "edit":
        files[block.path] = _edited(files, block)
        return
    if block.lines and _SEARCH.match(block.lines[0]):
        raise _Reason(f"it holds SEARCH/REPLACE pairs, so its fence must read ```edit {block.path}")
    if block.path in seen:
        raise _Reason("the file is given or deleted twice")
    seen.add(block.path)
    if block.kind != "delete":
        files[block.path] = "".join(f"{line}\n" for line in block.lines)
    elif files.pop(block.path, None) is None:
        raise _Reason(_no_such_file(block.path, files))


def _check_path(block: Block) -> None:
    if not block.path:
        raise _Reason(f"the opening fence must name the file, as in ```{block.kind or 'python'} program.py")
    try:
        _PATH.validate_python(block.path)
    except ValidationError:
        raise _Reason("the path is no plain relative path of at most 200 characters") from None


def _no_such_file(path: str, files: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(path, list(files), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(files) or 'no files'}"
    return f"the program has no such file; {hint}"


def _edited(files: Mapping[str, str], block: Block) -> str:
    if block.path not in files:
        raise _Reason(_no_such_file(block.path, files))
    text = files[block.path].replace("\r\n", "\n")
    pairs = hunks(block.lines)
    for number, hunk in enumerate(pairs, start=1):
        try:
            text = _replaced(text, hunk)
        except _Reason as reason:
            raise _Reason(f"pair {number} of {len(pairs)}: {reason}") from None
    return text


def hunks(lines: tuple[str, ...]) -> list[Hunk]:
    """Read the SEARCH/REPLACE pairs of a block; only blank lines may stand between them."""
    found = []
    rest = iter(lines)
    for line in rest:
        if opened := _SEARCH.match(line):
            found.append(_hunk(rest, len(opened[1])))
        elif line.strip():
            raise _Reason(f"{_shown(line)} stands outside of any <<<<<<< SEARCH … >>>>>>> REPLACE")
    if not found:
        raise _Reason("there is no <<<<<<< SEARCH … ======= … >>>>>>> REPLACE in it")
    if len(found) > BLOCK_PAIRS:
        raise _Reason(f"it has {len(found)} pairs, above the limit of {BLOCK_PAIRS}; give the whole file")
    return found


def _hunk(rest: Iterator[str], size: int) -> Hunk:
    search = _until(rest, "=" * size, size)
    replace = _until(rest, ">" * size + " REPLACE", size)
    if not any(line.strip() for line in search):
        raise _Reason("its SEARCH is blank; name the lines to replace, or give the whole file")
    if search == replace:
        raise _Reason("its SEARCH and REPLACE are the same")
    return Hunk(search, replace)


def _until(rest: Iterator[str], marker: str, size: int) -> tuple[str, ...]:
    markers = {"<" * size + " SEARCH", "=" * size, ">" * size + " REPLACE"}
    section: list[str] = []
    for line in rest:
        if (bare := line.rstrip()) == marker:
            return tuple(section)
        if bare in markers:
            advice = "if the text itself holds that line, make all three markers of the pair longer"
            raise _Reason(f"{bare} where {marker} was due; {advice}")
        section.append(line)
    raise _Reason(f"{marker} is missing")


def _replaced(text: str, hunk: Hunk) -> str:
    """Replace whole lines; line ends around both texts make a match begin and end with a line."""
    around, wanted = f"\n{text}\n", "".join(f"\n{line}" for line in hunk.search) + "\n"
    first = around.find(wanted)
    if first < 0:
        raise _Reason(_not_found(text, hunk))
    second = around.find(wanted, first + 1)
    if second >= 0:
        places = [around.count("\n", 0, place) + 1 for place in (first, second)]
        raise _Reason(f"its SEARCH matches at line {places[0]} and again at line {places[1]}; add lines around it")
    new = around[:first] + "".join(f"\n{line}" for line in hunk.replace) + around[first + len(wanted) - 1 :]
    return new[1:-1]


def _not_found(text: str, hunk: Hunk) -> str:
    lines = text.split("\n")
    start = _closest(lines, hunk.search) if len(lines) <= _SEARCHED_LINES else None
    if start is None:
        return f"its SEARCH is nowhere in the file, nor anything like {_shown(_first(hunk.search))}"
    shown = range(max(0, start - _CONTEXT), min(len(lines), start + len(hunk.search) + _CONTEXT))
    closest = "\n".join(f"{number + 1:5} {_cut(lines[number])}" for number in shown)
    return f"its SEARCH is not in the file as it stands. The closest lines, with their numbers, are\n{closest}"


def _closest(lines: list[str], search: tuple[str, ...]) -> int | None:
    """Find where most lines of the search stand together but for white space; else a line like its first one."""
    wanted = Counter(bare for line in search if (bare := line.strip()))
    hits = [line.strip() in wanted for line in lines]
    width = len(search)
    score = sum(hits[:width])
    best, start = score, 0
    for begin in range(1, len(lines) - width + 1):
        score += hits[begin + width - 1] - hits[begin - 1]
        if score > best:
            best, start = score, begin
    return start if best else _like(lines, _first(search))


def _like(lines: list[str], line: str) -> int | None:
    cut = [_cut(other.strip()) for other in lines]
    close = difflib.get_close_matches(_cut(line), cut, n=1)
    return cut.index(close[0]) if close else None


def _first(lines: tuple[str, ...]) -> str:
    return next((line.strip() for line in lines if line.strip()), "")


def _cut(line: str) -> str:
    return line if len(line) <= _SHOWN_WIDTH else f"{line[:_SHOWN_WIDTH]}…"


def _shown(line: str) -> str:
    return repr(_cut(line))


def _check_program(files: Mapping[str, str], parent: Mapping[str, str]) -> None:
    if not files:
        raise EditError(Fault(0, "", "no file of the program is left"))
    if len(files) > PROGRAM_FILES:
        raise EditError(Fault(0, "", f"the program has {len(files)} files, above the limit of {PROGRAM_FILES}"))
    size = sum(len(text.encode("utf-8", "replace")) for text in files.values())
    if size > PROGRAM_BYTES:
        raise EditError(Fault(0, "", f"the program has {size} bytes, above the limit of {PROGRAM_BYTES}"))
    if dict(files) == dict(parent):
        raise EditError(Fault(0, "", "the program is the same as before"))


def written_file(path: str, text: str, *, kind: str = "python") -> str:
    """Write a whole file as a block that `apply` reads back; every file ends with a line end."""
    return _fenced(f"{kind} {path}", text.removesuffix("\n").split("\n") if text else [])


def written_edit(path: str, *pairs: Hunk) -> str:
    """Write SEARCH/REPLACE pairs as a block that `apply` reads back."""
    lines: list[str] = []
    for pair in pairs:
        size = _marker_size((*pair.search, *pair.replace))
        lines += ["<" * size + " SEARCH", *pair.search, "=" * size, *pair.replace, ">" * size + " REPLACE"]
    return _fenced(f"edit {path}", lines)


def _marker_size(lines: tuple[str, ...]) -> int:
    longest = max((len(line) - len(line.lstrip(mark)) for line in lines for mark in "<=>"), default=0)
    return max(7, longest + 1)


def _fenced(info: str, lines: list[str]) -> str:
    longest = max((len(line) - len(line.lstrip("`")) for line in lines), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{fence}{info}", *lines, fence)) + "\n"
