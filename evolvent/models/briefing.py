"""What a task says to the models of a role: its brief, and prompts of its own."""

import base64
from collections.abc import Collection
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

import orjson

from evolvent.errors import Permanent, Refused
from evolvent.models.prompts import FOLDER, overrides


class Briefing(NamedTuple):
    """A task's own words."""

    brief: str
    prompts: MappingProxyType[str, str]
    """Templates that stand in for the shipped ones, by name."""


def read_briefing(bundle: bytes, role: str, known: Collection[str]) -> Briefing:
    """Read a packed task folder (`task.pack`).

    Raises:
        Permanent: a file under `prompts/<role>/` is named after no template of the role, or is no UTF-8 text.
    """
    content: dict[str, str] = orjson.loads(bundle)
    place = PurePosixPath(FOLDER, role)
    own = {path: base64.b64decode(text) for path, text in content.items() if PurePosixPath(path).parent == place}
    try:
        prompts = overrides(own, known)
    except Refused as error:
        raise Permanent(str(error)) from None
    return Briefing(base64.b64decode(content["brief.md"]).decode(), MappingProxyType(prompts))
