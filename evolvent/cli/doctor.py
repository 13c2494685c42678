"""`evolvent doctor`: what works on this machine, and how to mend what does not."""

import asyncio
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from evolvent import checks, log
from evolvent.checks import Check, Look, Verdict
from evolvent.cli.app import DEFAULT_HOME, FAILED, OK, Home, Json, app, console, emit, perform, settings_for
from evolvent.cli.cluster import Target, examine
from evolvent.cli.tasks import Unsafe, document, passed, show
from evolvent.embedded import binary
from evolvent.errors import EvolventError, Forbidden, Refused, Rejected, Unauthorized, Unreachable
from evolvent.platform import dial
from evolvent.provision import drift, provision
from evolvent.settings import Settings
from evolvent.wire import PROVISION, Wire

OLDEST_PYTHON = (3, 11)
TRIED_SERVER = (2, 15, 1)
"""The nats-server that everything was tried on; an older one may lack what the log relies on."""
LITTLE_DISK, NO_DISK = 5 << 30, 512 << 20
"""Bytes free: a run of some thousand rounds writes less than the first; below the second nats-server may refuse."""
LITTLE_ROOM, NO_ROOM = 0.1, 0.01
"""Share of the log's limit that is left."""
EXTRAS = {"scipy": "tasks", "torch": "training"}
"""Optional packages by the extra that brings them."""
_EXTRA = "`pip install -c constraints.txt -e '.[{}]'` where Evolvent was unpacked"
PATIENCE = 3.0
"""Seconds a server has to answer."""
FORWARD = "`kubectl -n evolvent port-forward svc/nats 4222` brings the cluster's here; or correct EVOLVENT_NATS_URL"


@app.command()
def doctor(
    home: Home = DEFAULT_HOME,
    repair: Annotated[bool, typer.Option(help="Bring streams and consumers to what they should be.")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at the cluster that KUBECONFIG names instead of at this machine.")
    ] = False,
    allow_unsafe_sandbox: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Look at everything a run needs, and say what is missing and how to mend it."""
    settings = settings_for(home, allow_unsafe_sandbox=allow_unsafe_sandbox or None)

    async def work() -> int:
        look = examine(Target()) if cluster else _local(settings)
        found = await asyncio.to_thread(lambda: list(look))
        found += await _server(settings, repair=repair, cluster=cluster)
        if as_json:
            emit(document(found))
        else:
            for each in found:
                show(each, console)
        return OK if passed(found) else FAILED

    perform(work())


def _local(settings: Settings) -> Iterator[Check]:
    """Check what needs no server."""
    yield _python()
    yield _nats_server(settings)
    yield _home(settings.home)
    yield _disk(settings.home)
    yield _sandbox(settings)
    yield from (_extra(name, extra) for name, extra in EXTRAS.items())
    from evolvent.models.checking import checks as models  # the client takes most of a second to import

    yield from models()


def _python() -> Check:
    seen = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Check("python", "ok", seen)
    return Check("python", "fail", seen, f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or later")


def _nats_server(settings: Settings) -> Check:
    """Check the binary; with a server of one's own it is not needed."""
    missing: Verdict = "warn" if settings.nats_url else "fail"
    try:
        path = binary()
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (Refused, OSError, subprocess.SubprocessError) as error:
        return Check("nats-server", missing, str(error), "or name a server of your own in EVOLVENT_NATS_URL")
    return _recent("nats-server", said.strip().rpartition(" ")[2].removeprefix("v"), f"at {path}")


def _recent(name: str, number: str, where: str) -> Check:
    """Compare the version of a nats-server with the one that was tried."""
    digits = tuple(int(part) for part in re.findall(r"\d+", number)[:3])
    if digits >= TRIED_SERVER:
        return Check(name, "ok", f"{number} {where}")
    tried = ".".join(map(str, TRIED_SERVER))
    return Check(name, "warn", f"{number} {where}", f"everything was tried on {tried}; use that or a later one")


def _home(home: Path) -> Check:
    """Check that the home can be written, and say who serves it."""
    place = _existing(home)
    if not place.is_dir() or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        return Check("home", "fail", f"{place} is no folder that can be written", "name another with --home")
    if place != home.absolute():
        return Check("home", "ok", f"{home} does not exist yet; {place} can be written")
    holders = _holders(home / "lock")
    return Check("home", "ok", f"{home}, " + (f"served by {', '.join(holders)}" if holders else "nobody serves it"))


def _existing(path: Path) -> Path:
    """Find the path itself, or the nearest of its parents that exists."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def _holders(lock: Path) -> list[str]:
    """Name the processes that hold the lock of a home; trying it would get in the way of a run that starts."""
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        inode = f":{lock.stat().st_ino}"
    except OSError:
        return ["another process"] if _held(lock) else []
    return [_process(row[4]) for row in rows if row[1] == "FLOCK" and row[5].endswith(inode)]


def _held(lock: Path) -> bool:
    """Try the lock, where nothing lists who holds which."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _process(pid: str) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({' '.join(words).strip()[:80]})"


def _disk(home: Path) -> Check:
    place = _existing(home)
    free = shutil.disk_usage(place).free
    seen, measured = f"{free / (1 << 30):.1f} GiB free at {place}", {"free_bytes": float(free)}
    if free >= LITTLE_DISK:
        return Check("disk", "ok", seen, measured=measured)
    return Check("disk", "fail" if free < NO_DISK else "warn", seen, "make room, or name another --home", measured)


def _sandbox(settings: Settings) -> Check:
    try:
        look: Look = checks.find("sandbox")
    except Refused as error:
        return Check("sandbox", "fail", str(error), "`pip install evolvent`")
    return look(allow_unsafe=settings.allow_unsafe_sandbox)


def _extra(name: str, extra: str) -> Check:
    if importlib.util.find_spec(name) is None:
        return Check(name, "warn", "not installed; some tasks need it", _EXTRA.format(extra))
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "ok", "installed")


async def _server(settings: Settings, *, repair: bool, cluster: bool) -> list[Check]:
    """Check the server, if there is to be one: reachable, its streams and consumers as described, room in the log."""
    if settings.nats_url is None and cluster:
        return [Check("server", "fail", "no bus is named", "set EVOLVENT_NATS_URL, EVOLVENT_NATS_USER and _PASSWORD")]
    if settings.nats_url is None and not _holders(settings.home / "lock"):
        return [Check("server", "ok", "none runs; `evolvent run` starts one")]
    try:
        async with dial(settings, "doctor", patience=PATIENCE) as wire:
            found = [_recent("server", str(wire.client.connected_server_version), f"at {settings.endpoint().url}")]
            found.append(await _provisioned(wire, settings, repair=repair))
            return [*found, await _room(wire)]
    except Unauthorized as error:
        return [Check("server", "fail", str(error), "correct the user and the password, or the token")]
    except Unreachable as error:
        return [Check("server", "fail", str(error), FORWARD if cluster else "start it, or correct EVOLVENT_NATS_URL")]
    except Forbidden as error:
        return [*found, Check("streams", "fail", str(error), "do it as the bus user that may")]
    except (EvolventError, TimeoutError) as error:
        return [Check("server", "fail", str(error), "turn JetStream on in the server")]


async def _provisioned(wire: Wire, settings: Settings, *, repair: bool) -> Check:
    changed = await provision(wire, settings) if repair else []
    left = await drift(wire, settings)
    if left:
        return Check("streams", "fail", "; ".join(left), f"{PROVISION} mends it and loses nothing")
    return Check("streams", "ok", f"mended: {'; '.join(changed)}" if changed else "as they should be")


async def _room(wire: Wire) -> Check:
    """Say how much of the log's limit is left; at its end the log refuses facts, and runs wait."""
    try:
        info = await wire.api(f"STREAM.INFO.{log.STREAM}")
    except Rejected as error:
        return Check("log room", "fail", str(error), f"{PROVISION} makes the stream")
    used, limit = info["state"]["bytes"], info["config"]["max_bytes"]
    seen, measured = f"{info['state']['messages']} facts, {used / (1 << 20):.1f} MiB", {"used_bytes": float(used)}
    if limit <= 0:
        return Check("log room", "ok", f"{seen}, as large as the disk", measured=measured)
    left = 1 - used / limit
    seen, measured = f"{seen}, {left:.0%} of {limit / (1 << 20):.0f} MiB left", measured | {"limit_bytes": float(limit)}
    if left >= LITTLE_ROOM:
        return Check("log room", "ok", seen, measured=measured)
    mend = f"raise EVOLVENT_LOG_MAX_BYTES and run {PROVISION}; nothing is lost meanwhile"
    return Check("log room", "fail" if left < NO_ROOM else "warn", seen, mend, measured)
