"""The evaluator's process: runs the task's `evaluate.py` and reports one outcome to the engineer.

It holds no key and no network, and it never runs the candidate's code: it asks the engineer for a sandbox and
gets a channel to it.
"""

import hashlib
import importlib.util
import math
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from evolvent.evaluation import CandidateFailed, Invalid, Plain, Sandbox
from evolvent_engineer import wire
from evolvent_engineer.candidate import TEXT_LIMIT

_REASONS = {"crashed", "protocol", "memory_limit", "process_limit", "disk_limit", "file_limit"}
"""What a candidate may say of itself; a lie only names its own failure wrongly."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the engineer tells an evaluator."""

    bundle: str
    files: dict[str, str]
    entry: str
    settings: dict[str, Any]
    seed: int
    metric: str
    deadline: float
    """On `time.monotonic`, which all processes of a machine share."""
    frame_limit: int
    """Bytes of arrays in one frame."""
    parameters: int | None
    threads: int
    """What a candidate's libraries should compute with."""


def run(control: socket.socket) -> None:
    """Evaluate once, report, and wait for the engineer to end this process."""
    assignment = Assignment(**wire.receive(control, limit=0))
    wire.send(control, _report(assignment, Glass(control, assignment)))
    control.settimeout(None)
    control.recv(1)


def _report(assignment: Assignment, candidate: "Glass") -> dict[str, object]:
    """Evaluate and name the outcome. A failure of the candidate stands, whatever `evaluate` made of it."""
    try:
        metrics = _evaluate(assignment, candidate)
        report = candidate.failure or _measured(metrics, assignment.metric)
    except Invalid as invalid:
        report = candidate.failure or _failed("invalid", str(invalid))
    except BaseException as error:  # noqa: BLE001  a process boundary: the task's code may raise anything
        text = "".join(traceback.format_exception(error))[-TEXT_LIMIT:]
        report = candidate.failure or _failed("evaluator_crashed", text)
    return report


def _evaluate(assignment: Assignment, candidate: "Glass") -> object:
    path = Path(assignment.bundle) / "evaluate.py"
    sys.path.insert(0, assignment.bundle)
    spec = importlib.util.spec_from_file_location("evaluate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluate"] = module
    spec.loader.exec_module(module)
    return module.evaluate(candidate, assignment.settings, assignment.seed)


def _failed(reason: str, message: str, *, sandbox: int | None = None, **measured: float) -> dict[str, object]:
    return {"failed": {"reason": reason, "message": message, "sandbox": sandbox, "measured": measured}}


def _measured(metrics: object, metric: str) -> dict[str, object]:
    """Check what `evaluate` returned: numbers by name, the objective among them, all finite."""
    if not isinstance(metrics, Mapping) or not all(isinstance(v, Real) for v in metrics.values()):
        return _failed("evaluator_crashed", f"evaluate returned no dict of numbers but {metrics!r:.200}")
    if metric not in metrics:
        return _failed("evaluator_crashed", f"evaluate returned no {metric!r}; it returned {sorted(metrics)}")
    values = {str(name): float(value) for name, value in metrics.items()}
    if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
        return _failed("non_finite", ", ".join(f"{name} is {values[name]}" for name in wrong))
    return {"completed": values}


class Glass:
    """The candidate as `evaluate` sees it; implements `evolvent.evaluation.Candidate`."""

    def __init__(self, control: socket.socket, assignment: Assignment) -> None:
        self._control = control
        self._assignment = assignment
        self._default: _Pane | None = None
        self._opened = 0
        self.failure: dict[str, object] | None = None

    def call(self, function: str, *arguments: Plain, **named: Plain) -> Plain:
        if self._default is None:
            self._default = self._open()
        return self._default.call(function, *arguments, **named)

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        pane = self._open()
        try:
            yield pane
        finally:
            wire.send(self._control, {"close": pane.number})
            pane.channel.close()

    def count(self, value: Plain) -> int:
        size, limit = wire.size(value), self._assignment.parameters
        if limit is not None and size > limit:
            message = f"{size} parameter bytes; the stage grants {limit}"
            self.fail(None, "parameter_limit", message, found=size, limit=limit)
        return size

    def fail(self, sandbox: int | None, reason: str, message: str, **measured: float) -> None:
        """Settle the outcome, once, and leave `evaluate`.

        Raises:
            CandidateFailed: always.
        """
        if self.failure is None:
            self.failure = _failed(reason, message, sandbox=sandbox, **measured)
        raise CandidateFailed(message)

    def _open(self) -> "_Pane":
        if self.failure is not None:
            raise CandidateFailed("this candidate has failed already")
        number, self._opened = self._opened, self._opened + 1
        wire.send(self._control, {"open": number})
        _, (descriptor, *_), _, _ = socket.recv_fds(self._control, 1, 1)
        pane = _Pane(number, socket.socket(fileno=descriptor), self, self._assignment)
        pane.begin()
        return pane


class _Pane:
    """One sandbox of the candidate: every way in which it can fail to answer has its name here."""

    def __init__(self, number: int, channel: socket.socket, glass: Glass, assignment: Assignment) -> None:
        self.number = number
        self.channel = channel
        self._glass = glass
        self._assignment = assignment

    def begin(self) -> None:
        """Hand the program over and wait until it is imported."""
        assignment = self._assignment
        seed = int.from_bytes(hashlib.sha256(f"candidate {assignment.seed}".encode()).digest()[:8], "big")
        setup = {"files": assignment.files, "entry": assignment.entry, "frame_limit": assignment.frame_limit}
        self._exchange(setup | {"seed": seed >> 1, "threads": assignment.threads})

    def call(self, function: str, *arguments: Plain, **named: Plain) -> Plain:
        value = self._exchange([function, arguments, named])
        if function == "train":
            self._glass.count(value)
        return value

    def _exchange(self, request: object) -> Any:
        """Send one frame and understand the answer; a wrong one settles the outcome."""
        deadline = self._assignment.deadline
        try:
            wire.send(self.channel, request, deadline=deadline)
            answer = wire.receive(self.channel, limit=self._assignment.frame_limit, deadline=deadline)
        except TimeoutError:
            return self._fail("wall_limit", "the candidate did not answer in time")
        except (EOFError, OSError) as error:
            return self._fail("ended", f"the candidate's process ended: {error}")
        except wire.WireError as error:
            return self._fail("protocol", str(error))
        return self._understood(answer)

    def _understood(self, answer: Any) -> Any:
        match answer:
            case {"value": value, **rest} if not rest:
                return value
            case {"ready": True}:
                return None
            case {"failed": [str(reason), str(message)]} if reason in _REASONS:
                return self._fail(reason, message[-TEXT_LIMIT:])
            case _:
                return self._fail("protocol", f"the candidate answered {answer!r:.200}")

    def _fail(self, reason: str, message: str) -> None:
        self._glass.fail(self.number, reason, message)
