"""A task is a folder; a run carries the whole of it as one artifact, so that a role needs no shared disk."""

import base64
import difflib
import importlib.util
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from evolvent import knowledge
from evolvent.errors import Refused
from evolvent_schemas.values import Files, KnowledgeItem, TaskSpec, canonical

LARGEST_FOLDER = 256 << 20
"""Bytes of a task folder; larger data belongs behind an address that `evaluate.py` reads."""
LEFT_OUT = {"__pycache__", ".git", ".DS_Store"}


@dataclass(frozen=True)
class Task:
    """A task folder, read and checked."""

    folder: Path
    spec: TaskSpec
    brief: str
    baseline: Files
    items: list[KnowledgeItem]

    @property
    def evaluator(self) -> Path:
        return self.folder / "evaluate.py"


def load(folder: Path) -> Task:
    """Read a task folder.

    Raises:
        Refused: something is missing or wrong; the message names the file, the key and the nearest valid one.
    """
    if not (folder / "task.toml").is_file():
        raise Refused(f"{folder} is not a task folder: it has no task.toml; `evolvent task new {folder}` makes one")
    spec = _spec(folder / "task.toml")
    for name in ("brief.md", "evaluate.py", f"baseline/{spec.program.entry}"):
        if not (folder / name).is_file():
            raise Refused(f"{folder} has no {name}")
    _installed(spec)
    if (folder / "prompts").is_dir():
        from evolvent.models.prompts import check_own  # what asks models is slow to import, and few tasks need it

        check_own(folder)
    baseline = {str(path.relative_to(folder / "baseline")): path.read_text() for path in _files(folder / "baseline")}
    shelf = folder / "knowledge"
    return Task(
        folder, spec, (folder / "brief.md").read_text(), baseline, knowledge.load(shelf) if shelf.is_dir() else []
    )


def _spec(path: Path) -> TaskSpec:
    try:
        return TaskSpec.model_validate(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise Refused(f"{path}: " + "; ".join(_explained(found) for found in error.errors())) from error


def _explained(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}"
    near = difflib.get_close_matches(str(error["loc"][-1]), sorted(_keys(TaskSpec)), n=1)
    return f"{where}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")


def _keys(model: type[BaseModel]) -> set[str]:
    """Collect every key that a model and the models within it know."""
    found = set(model.model_fields)
    for field in model.model_fields.values():
        parts = (field.annotation, *getattr(field.annotation, "__args__", ()))
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= _keys(part)
    return found


def _installed(spec: TaskSpec) -> None:
    missing = [name for name in spec.program.preload if importlib.util.find_spec(name.partition(".")[0]) is None]
    if missing:
        raise Refused(
            f"task {spec.name} needs {', '.join(missing)}; `pip install 'evolvent[tasks]'` brings what it needs"
        )


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not LEFT_OUT.intersection(path.relative_to(folder).parts)
    )


def pack(folder: Path) -> bytes:
    """Turn a task folder into one artifact: canonical JSON `{path: base64}`.

    Raises:
        Refused: it is larger than 256 MiB.
    """
    size = sum(path.stat().st_size for path in _files(folder))
    if size > LARGEST_FOLDER:
        raise Refused(f"{folder} holds {size >> 20} MiB, more than {LARGEST_FOLDER >> 20}")
    content = {str(path.relative_to(folder)): base64.b64encode(path.read_bytes()).decode() for path in _files(folder)}
    return canonical(content)


def unpack(bundle: bytes, folder: Path) -> Path:
    """Lay a packed task folder out on disk; a folder that is there is complete and stays.

    Raises:
        Refused: a path leads out of the folder.
    """
    if folder.is_dir():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for name, content in orjson.loads(bundle).items():
        path = (part / name).resolve()
        if not path.is_relative_to(part.resolve()):
            raise Refused(f"the task bundle holds the path {name!r}, which leads out of it")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    part.mkdir(parents=True, exist_ok=True)
    try:
        part.replace(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # another process was faster
    return folder
