"""Programs that `evolvent task check` runs as candidates, each wrong in one way. Read as text; runs in a sandbox only.

The entry file of such a program binds every function of the task to `answer` with its case; the task's own baseline
lies beside it as `_original.py`. Nothing here may import what a sandbox has not.
"""

import builtins
import contextlib
import functools
import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ORIGINAL = "_original"
HUGE = 1e308
HUGE_INTEGER = 2**62
MARK = "peeked "
"""Begins the line of the output by which a program says what it could read."""
SHOWN = 3
"""Paths that are named; the output of a candidate may be limited to 1 KiB."""


def answer(case: dict[str, Any], function: str, *arguments: Any, **named: Any) -> Any:
    """Answer one call in the wrong way that the case names."""
    wrong: Callable[..., Any] = globals()[f"_{case['name']}"]
    return wrong(case, lambda: getattr(importlib.import_module(ORIGINAL), function)(*arguments, **named))


def _crash(_case: dict[str, Any], _honest: Callable[[], Any]) -> Any:
    raise RuntimeError("this program crashes on purpose")


def _hang(_case: dict[str, Any], _honest: Callable[[], Any]) -> Any:
    while True:
        time.sleep(1)


def _nan(_case: dict[str, Any], honest: Callable[[], Any]) -> Any:
    return _replaced(honest(), math.nan, math.nan)


def _infinity(_case: dict[str, Any], honest: Callable[[], Any]) -> Any:
    return _replaced(honest(), math.inf, math.inf)


def _huge(_case: dict[str, Any], honest: Callable[[], Any]) -> Any:
    return _replaced(honest(), HUGE, HUGE_INTEGER)


def _negative(_case: dict[str, Any], honest: Callable[[], Any]) -> Any:
    return _replaced(honest(), -HUGE, -HUGE_INTEGER)


def _replaced(value: Any, real: float, whole: float) -> Any:
    """Keep the shape of an answer and replace every number in it; an answer without numbers becomes one."""
    found: list[bool] = []

    def walk(inner: Any) -> Any:
        match inner:
            case dict():
                return {key: walk(each) for key, each in inner.items()}
            case list() | tuple():
                return [walk(each) for each in inner]
            case np.ndarray() if inner.dtype.kind in "iufc":
                found.append(True)
                return np.full(inner.shape, real if inner.dtype.kind in "fc" else whole, inner.dtype)
            case bool() | str() | bytes() | None:
                return inner
            case _:
                found.append(True)
                return whole if isinstance(inner, int | np.integer) else real

    replaced = walk(value)
    return replaced if found else real


def _peek(case: dict[str, Any], honest: Callable[[], Any]) -> Any:
    """Try to read what the task keeps to itself, say what could be read, and answer honestly."""
    _look_once(tuple(case["paths"]))
    return honest()


@functools.cache
def _look_once(paths: tuple[str, ...]) -> None:
    ways = [*paths, *_through_processes(paths)]
    reached = [way for way in ways if _readable(way)] + list(_evaluators())
    report = {"tried": len(ways), "count": len(reached), "reached": [way[:200] for way in reached[:SHOWN]]}
    sys.stdout.write(f"\n{MARK}{json.dumps(report)}\n")
    sys.stdout.flush()


def _through_processes(paths: tuple[str, ...]) -> Iterator[str]:
    """Name the same paths as other processes see them."""
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir("/proc")):  # noqa: PTH208  /proc changes while it is read
            if entry.isdigit() and int(entry) != os.getpid():
                yield f"/proc/{entry}/environ"
                yield from (f"/proc/{entry}/root{path}" for path in paths if path.endswith("evaluate.py"))


def _readable(path: str) -> bool:
    try:
        if Path(path).is_dir():
            return bool(os.listdir(path))  # noqa: PTH208  this is about the call
        with Path(path).open("rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


def _evaluators() -> Iterator[str]:
    """Look for the task's evaluator in memory and on the import path."""
    with contextlib.suppress(ImportError):
        importlib.import_module("evaluate")
        yield "the module `evaluate`"


def _tamper(case: dict[str, Any], honest: Callable[[], Any]) -> Any:
    """Replace what an evaluator in this process would compute with, then answer honestly."""
    found = honest()
    builtins.sum = _boastful(builtins.sum)
    builtins.max = _boastful(builtins.max)
    builtins.abs = _boastful(builtins.abs)
    for module, names in (
        (math, ("fsum", "sqrt", "hypot", "dist", "isfinite", "isnan")),
        (np, ("sum", "max", "min", "mean", "abs", "isfinite", "isnan", "isinf", "allclose", "array_equal")),
        (np.linalg, ("norm",)),
    ):
        for name in names:
            setattr(module, name, _boastful(getattr(module, name)))
    sys.modules["evaluate"] = _forged_evaluator(case["metric"])
    return found


def _boastful(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lie about numbers, and only about numbers with a fraction: lengths stay true, so that the answer can cross."""

    def lie(*arguments: Any, **named: Any) -> Any:
        honest = function(*arguments, **named)
        return HUGE if isinstance(honest, float) else honest

    return lie


def _forged_evaluator(metric: str) -> ModuleType:
    module = ModuleType("evaluate")
    module.evaluate = lambda *_: {metric: HUGE}  # type: ignore[attr-defined]
    return module


def _forge(case: dict[str, Any], _honest: Callable[[], Any]) -> Any:
    """Put results wherever somebody might look for them, and answer nothing."""
    results = json.dumps({case["metric"]: HUGE, "score": HUGE, "completed": {case["metric"]: HUGE}})
    for name in ("result.json", "results.json", "score.txt", "metrics.json", "../result.json"):
        with contextlib.suppress(OSError):
            Path(name).write_text(results)
    sys.stdout.write(f"{results}\n")
    sys.stdout.flush()
    _forge_frames({"completed": {case["metric"]: HUGE}})


def _forge_frames(report: dict[str, Any]) -> None:
    """Send the evaluator's own report on every descriptor there is."""
    from evolvent_engineer import wire

    frame = b"".join(wire.encode(report))
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(descriptor, frame)


class _Liar:
    """Claims to be a number, an array, and better than anything."""

    __class__ = float  # type: ignore[assignment]

    def __float__(self) -> float:
        return HUGE

    def __array__(self, *_arguments: Any, **_named: Any) -> Any:
        return np.full(1, HUGE)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _index: Any) -> "_Liar":
        return self

    def __gt__(self, _other: object) -> bool:
        return True

    def __lt__(self, _other: object) -> bool:
        return True

    def __eq__(self, _other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def _lie(_case: dict[str, Any], _honest: Callable[[], Any]) -> Any:
    return _Liar()
