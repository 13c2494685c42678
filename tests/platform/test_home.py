"""One server per home, and none that outlives its owner."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evolvent.embedded import HomeTaken, Server, binary, embedded, lock_home
from evolvent.platform import open_platform
from evolvent.settings import Settings
from tests.platform.facts import sampled
from tests.processes import child, descendants, still_there

HOST = """
import asyncio, sys
from pathlib import Path
from evolvent.embedded import embedded
from evolvent.settings import Settings
async def main():
    async with embedded(Settings(home=Path(sys.argv[1]))):
        await asyncio.sleep(3600)
asyncio.run(main())
"""


async def test_a_second_server_on_a_home_is_refused(server: Server, settings: Settings) -> None:
    with pytest.raises(HomeTaken):
        async with embedded(settings):
            pass


async def test_what_was_stored_is_there_for_the_next_server(settings: Settings) -> None:
    for _ in range(2):
        async with embedded(settings), open_platform(settings, "test") as platform:
            await platform.log("test").append(sampled())
            assert 1 == len(await platform.log("test").run("r1"))


def test_a_home_stays_taken_while_its_old_server_lives(tmp_path: Path) -> None:
    """The owner is gone, the server is not: the lock travelled into it."""
    lock = lock_home(tmp_path)
    server = subprocess.Popen(
        [binary(), "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", str(tmp_path / "nats"), "-l", str(tmp_path / "log")],
        pass_fds=(lock,),
    )
    os.close(lock)
    try:
        with pytest.raises(HomeTaken):
            lock_home(tmp_path)
    finally:
        server.kill()
        server.wait()
    os.close(lock_home(tmp_path))


async def test_the_server_dies_with_a_killed_owner_and_the_home_is_free(tmp_path: Path) -> None:
    home = tmp_path / "home"
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", HOST, str(home))
    await asyncio.to_thread(_wait_for, home / "server.json")
    family = descendants(owner.pid)
    assert child(owner.pid, "nats-server") in family
    owner.send_signal(signal.SIGKILL)
    await owner.wait()

    assert [] == await asyncio.to_thread(still_there, family, 1.0)
    os.close(lock_home(home))


def _wait_for(path: Path) -> None:
    import time

    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
