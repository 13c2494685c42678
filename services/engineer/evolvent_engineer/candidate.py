"""The candidate's process: imports the program and answers calls with plain data. Nothing here is trusted."""

import errno
import importlib.util
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy.random  # numpy imports it at first use, which would be in every child anew

from evolvent_engineer import wire
from evolvent_schemas.values import FailureReason

TEXT_LIMIT = 4000
"""Characters of a traceback that go into a fact; its end says most."""


def serve(channel: socket.socket) -> None:
    """Read the program from the channel, import it, and answer calls until the channel closes."""
    setup = wire.receive(channel, limit=0)
    _use_threads(setup["threads"])
    reply, module = _attempt(lambda: _load(setup["files"], setup["entry"], setup["seed"]))
    answer: object = None if module is not None else reply
    while True:
        wire.send(channel, {"ready": True} if answer is None else answer)
        function, arguments, named = wire.receive(channel, limit=setup["frame_limit"])
        answer = _answer(module, function, arguments, named)


def _answer(module: Any, function: str, arguments: list[Any], named: dict[str, Any]) -> object:
    failure, value = _attempt(lambda: getattr(module, function)(*arguments, **named))
    if failure:
        return failure
    try:
        wire.encode(value)
    except wire.NotPlainError as error:
        return _failure("protocol", f"{function} returned what cannot cross: {error}")
    return {"value": value}


def _attempt(call: Callable[[], Any]) -> tuple[dict[str, object], Any]:
    """Call into the program; whatever it raises, `SystemExit` and its like included, is an answer."""
    try:
        return {}, call()
    except BaseException as error:  # noqa: BLE001  the program may raise anything
        return _failure(_reason(error), _text(error)), None


def _text(error: BaseException) -> str:
    """Format an exception without our own frames and without the folder's changing name."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return text.replace(f"{Path.cwd()}/", "")[-TEXT_LIMIT:]


def _failure(reason: FailureReason, message: str) -> dict[str, object]:
    return {"failed": [reason, message]}


def _reason(error: BaseException) -> FailureReason:
    match error:
        case MemoryError():
            return "memory_limit"
        case OSError(errno=errno.EAGAIN):
            return "process_limit"
        case OSError(errno=errno.ENOSPC):
            return "file_limit" if os.statvfs(".").f_ffree == 0 else "disk_limit"
        case OSError(errno=errno.EFBIG | errno.EDQUOT):
            return "disk_limit"
        case RuntimeError(args=("can't start new thread",)):
            return "process_limit"
        case _:
            return "crashed"


def _use_threads(count: int) -> None:
    """Let torch compute with as many threads as were granted; the server itself must have only one."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def _load(files: Mapping[str, str], entry: str, seed: int) -> ModuleType:
    """Write the program into the working directory and import its entry file."""
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(Path.cwd()))
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002  programs that use the old interface repeat as well
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
    name = Path(entry).stem
    spec = importlib.util.spec_from_file_location(name, Path.cwd() / entry)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
