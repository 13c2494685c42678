"""The fork server: one process that has imported a task's modules and forks evaluators and candidates.

It is single-threaded, only ever imports, and runs nobody's code: a parallel operation of torch in it would leave
every forked child hanging in OpenMP. It ends, with all its children, when its control socket closes.

Requests come as frames, `{"spawn": Spec}` followed by one byte that carries the child's two descriptors, or
`{"kill": id}`. It answers `{"fault": …}` once, `{"started": id, "pid": …}` and `{"exited": id, …}`.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolvent_engineer import candidate, evaluator, wire
from evolvent_engineer.confinement import Confinement, Settings, Spec, orphans

_CHANNEL = 3
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_ROLES = {"evaluator": evaluator.run, "candidate": candidate.serve}


class Server:
    """Forks children on request and reports their ends."""

    def __init__(self, control: socket.socket, confinement: Confinement) -> None:
        self._control = control
        self._confinement = confinement
        self._children: dict[int, str] = {}
        self._woken, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Serve until the engineer closes the control socket, then end every child."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if self._woken in ready:
                    os.read(self._woken, 4096)
                    self._reap()
                if self._control.fileno() in ready:
                    self._serve(wire.receive(self._control, limit=0))
        except (EOFError, ConnectionError):
            self._end()

    def _serve(self, request: Any) -> None:
        match request:
            case {"spawn": spec}:
                _, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
                self._spawn(Spec(**spec), descriptors)
            case {"kill": str(name)}:
                for pid in [pid for pid, child in self._children.items() if child == name]:
                    self._kill(pid)

    def _spawn(self, spec: Spec, descriptors: Sequence[int]) -> None:
        pid = self._confinement.fork()
        if pid == 0:
            _become(spec, self._confinement, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._children[pid] = spec.id
        wire.send(self._control, {"started": spec.id, "pid": pid})

    def _kill(self, pid: int) -> None:
        """Kill a child, which may not lead its group yet, and its group. Only this process reaps it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _kill_group(pid)

    def _reap(self) -> None:
        """Report every child that has ended, and end what it left in its process group."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if name := self._children.pop(pid, None):
                    _kill_group(pid)  # a number that a group still bears is not given out again
                    self._adopt()
                    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _MAXRSS_UNIT
                    wire.send(self._control, {"exited": name, "status": status, "cpu": cpu, "peak": peak})

    def _adopt(self) -> None:
        """End whatever has become ours as subreaper; its own children become ours in turn."""
        while left := orphans(set(self._children)):
            for orphan in left:
                os.kill(orphan, signal.SIGKILL)
                os.waitpid(orphan, 0)

    def _end(self) -> None:
        for pid in self._children:
            self._kill(pid)
            os.waitpid(pid, 0)
        self._children.clear()
        self._adopt()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _become(spec: Spec, confinement: Confinement, descriptors: Sequence[int]) -> None:
    """Turn this fork into the child that was asked for. Never returns."""
    code = 1
    try:
        _settle(descriptors)
        channel = socket.socket(fileno=_CHANNEL)
        confinement.enter(spec)
        _ROLES[spec.role](channel)
        code = 0
    except (EOFError, ConnectionError):
        code = 0
    except BaseException:  # noqa: BLE001  nothing may unwind into the server's own frames
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _settle(descriptors: Sequence[int]) -> None:
    """Take the signals and descriptors of a fresh process: null, output, output, channel, and no other."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    channel, output = (os.dup(descriptor) for descriptor in descriptors)
    null = os.open(os.devnull, os.O_RDONLY)
    spare = [os.dup2(source, 64 + n) for n, source in enumerate((null, output, output, channel))]
    for target, source in enumerate(spare):
        os.dup2(source, target)
    os.closerange(_CHANNEL + 1, os.sysconf("SC_OPEN_MAX"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what was printed must survive a kill


def _preload(modules: Sequence[str]) -> None:
    """Import the task's modules.

    Raises:
        RuntimeError: they started threads, and a process with threads cannot fork safely.
        Exception: whatever one of them raises.
    """
    for module in modules:
        importlib.import_module(module)
    threads = len(list(Path("/proc/self/task").iterdir())) if sys.platform == "linux" else 1
    if threads > 1:
        raise RuntimeError(f"preloading {', '.join(modules)} started {threads - 1} threads")


def main() -> None:
    """Run as `python -m evolvent_engineer.forkserver SETTINGS`, with the control socket as descriptor 0."""
    control = socket.socket(fileno=os.dup(0))
    settings = Settings(**json.loads(sys.argv[1]))
    try:
        _preload(settings.preload)
        confinement = Confinement(settings)
    except Exception as error:  # noqa: BLE001  importing may raise anything; the engineer names it
        wire.send(control, {"fault": f"{type(error).__name__}: {error}"})
        return
    gc.collect()
    gc.freeze()  # collections in a child would copy every page they touch
    wire.send(control, {"fault": None})
    Server(control, confinement).run()


if __name__ == "__main__":
    main()
