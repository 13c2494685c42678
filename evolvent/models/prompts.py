"""Versioned prompt templates, and quotation marks that quoted text cannot forge."""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path, PurePath
from string import Template as Placeholders
from typing import Self

from evolvent.errors import Refused
from evolvent.models.answers import Message, ModelAnswer, ModelRequest, PromptRef
from evolvent_schemas.values import canonical, sha256

_SECTION = re.compile(r"^\[(system|user)\]\n", re.MULTILINE)
FOLDER = "prompts"
"""Where a task folder keeps its own templates, as `<role>/<name>.txt`."""
GROUP = "evolvent.prompts"
"""Entry points that name, by role, the module with its `TEMPLATES`: the version of each that is shipped beside it."""


@dataclass(frozen=True)
class Template:
    """Text in sections `[system]` and `[user]` with `$placeholders`. What fills them is never read again."""

    name: str
    version: str
    text: str

    @property
    def ref(self) -> PromptRef:
        return PromptRef(name=self.name, version=self.version, digest=sha256(self.text.encode()))

    @property
    def placeholders(self) -> frozenset[str]:
        return frozenset(Placeholders(self.text).get_identifiers())

    def fill(self, **texts: str) -> tuple[Message, ...]:
        """Write the messages.

        Raises:
            KeyError: a placeholder got no text.
        """
        _, *parts = _SECTION.split(self.text)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return tuple(
            Message.model_validate({"role": role, "text": Placeholders(text).substitute(texts).strip()})
            for role, text in pairs
        )


def template(package: str, name: str, version: int, overrides: Mapping[str, str] | None = None) -> Template:
    """Take a template from the task's own (`{name: text}`), else the one shipped as `<name>.v<version>.txt`.

    Raises:
        Refused: the task's own has no sections, or other placeholders than the shipped one; the message names them.
    """
    text = (files(package) / f"{name}.v{version}.txt").read_text("utf-8")
    shipped = Template(name, str(version), text)
    if overrides is None or name not in overrides:
        return shipped
    own = Template(name, "task", overrides[name].replace("\r\n", "\n"))
    _check(own, shipped)
    return own


def _check(own: Template, shipped: Template) -> None:
    place = f"the task's own prompt {own.name}.txt"
    if not _SECTION.match(own.text):
        raise Refused(f"{place} must begin with a line [system] or [user]")
    if not Placeholders(own.text).is_valid():
        raise Refused(f"{place} holds a $ that begins no placeholder; write $$ for the sign itself")
    for unknown in sorted(own.placeholders - shipped.placeholders):
        raise Refused(f"{place}: ${unknown} is no placeholder{_nearest(unknown, shipped.placeholders)}")
    if "form" in shipped.placeholders - own.placeholders:
        raise Refused(f"{place} must contain $form, which says how to answer so that the answer can be read")


def overrides_in(folder: Path, role: str, known: Collection[str]) -> dict[str, str]:
    """Read a role's templates from a task folder, as `{name: text}`.

    Raises:
        Refused: a file there is named after no template of the role, or is no UTF-8 text.
    """
    try:
        return overrides({str(path): path.read_bytes() for path in (folder / FOLDER / role).glob("[!.]*")}, known)
    except OSError as error:
        raise Refused(f"a prompt cannot be read: {error}") from error


def check_own(folder: Path) -> None:
    """Check the templates that a task folder brings against those of the installed roles, before anything is spent.

    Raises:
        Refused: a file overrides none, or cannot stand in for the one that it overrides.
    """
    roles = {entry.name: entry for entry in entry_points(group=GROUP)}
    for place in sorted((folder / FOLDER).glob("[!.]*")):
        if place.name not in roles:
            raise Refused(f"{place} is the folder of no role that asks models{_nearest(place.name, roles)}")
        shipped = roles[place.name].load()
        own = overrides_in(folder, place.name, shipped.TEMPLATES)
        for name in own:
            template(shipped.__name__, name, shipped.TEMPLATES[name], own)


def overrides(found: Mapping[str, bytes], known: Collection[str]) -> dict[str, str]:
    """Read a role's templates from their files, `{path: content}`, as `{name: text}`.

    Raises:
        Refused: a file is named after no template of the role, or is no UTF-8 text.
    """
    texts = {}
    for path, content in sorted(found.items()):
        name = PurePath(path)
        if name.suffix != ".txt" or name.stem not in known:
            raise Refused(f"{path} overrides no prompt{_nearest(name.stem, known)}")
        try:
            texts[name.stem] = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(f"{path} cannot be read: {error}") from error
    return texts


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"


@dataclass(frozen=True)
class Quotes:
    """A boundary that none of the texts it was made for can hold, so that none can end its own quotation.

    It is a digest of them all: a text that held it would have to hold a digest of itself, 2**64 tries away. So the same
    prompt is written again when a decision is replayed.
    """

    boundary: str

    @classmethod
    def around(cls, texts: Iterable[str]) -> Self:
        return cls(sha256(canonical(tuple(texts)))[:16])

    def quote(self, label: str, text: str) -> str:
        """Quote one text; the label is written as a JSON string and so stays on its line.

        Raises:
            ValueError: the text or its label holds the boundary, so it was not made for this text.
        """
        if self.boundary in text or self.boundary in label:
            raise ValueError("the boundary occurs in the text or its label")
        end = "" if text.endswith("\n") else "\n"
        return f"BEGIN {self.boundary} {json.dumps(label)}\n{text}{end}END {self.boundary}"


def repaired(request: ModelRequest, answer: ModelAnswer, repair: Template, *, fault: str) -> ModelRequest:
    """Write the one repair turn: the conversation so far, what came back, and what was wrong with it."""
    quotes = Quotes.around((fault,))
    turn = repair.fill(fault=quotes.quote("what was wrong", fault), boundary=quotes.boundary)
    said = Message(role="assistant", text=answer.text.strip() or "(no text)")
    return request.model_copy(update={"messages": (*request.messages, said, *turn), "prompt": repair.ref})
