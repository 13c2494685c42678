"""A served role, as a process, tells whether it lives and whether it is ready; SIGTERM drains it."""

import asyncio
import contextlib
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

from evolvent.children import spawn
from evolvent.embedded import Server
from evolvent.health import OLDEST_TICK, Health
from evolvent.platform import Platform
from evolvent.settings import Settings
from tests.platform.servers import free_ports

Served = tuple[asyncio.subprocess.Process, int]


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
    except OSError:
        return 0, ""


async def get(port: int, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(_get, port, path)


async def until(port: int, path: str, wanted: tuple[int, str]) -> None:
    async with asyncio.timeout(30):
        while await get(port, path) != wanted:  # noqa: ASYNC110 - another process can only be asked
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def served(role: str, server: Server, settings: Settings) -> AsyncIterator[Served]:
    """`python -m evolvent_<role>` as a pod runs it."""
    (port,) = free_ports(1)
    environment = {
        "EVOLVENT_HOME": str(settings.home / "other"),
        "EVOLVENT_NATS_URL": server.url,
        "EVOLVENT_NATS_TOKEN": server.token,
        "EVOLVENT_HEALTH_PORT": str(port),
    }
    process = await spawn([sys.executable, "-m", f"evolvent_{role}"], env=os.environ | environment)
    try:
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_role_becomes_ready_and_ends_well_on_sigterm(server: Server, settings: Settings) -> None:
    async with served("conductor", server, settings) as (process, port):
        await until(port, "/ready", (200, "ok"))
        assert (200, "ok") == await get(port, "/live")
        assert (404, "there are /live and /ready") == await get(port, "/metrics")
        process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.wait_for(process.wait(), 15)


async def test_without_nats_a_role_lives_and_is_not_ready(server: Server, settings: Settings) -> None:
    async with served("analyzer", server, settings) as (process, port):
        await until(port, "/ready", (200, "ok"))
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            await until(port, "/ready", (503, "not connected to NATS"))
            assert (200, "ok") == await get(port, "/live")
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await until(port, "/ready", (200, "ok"))
        assert process.returncode is None


async def test_a_role_that_drains_is_not_ready(platform: Platform) -> None:
    stop = asyncio.Event()
    health = Health(0, stop, platform)
    assert "" == health.ready()
    stop.set()
    assert "draining" == health.ready()


async def test_a_fold_that_has_not_reached_the_fact_in_hand_is_not_ready(platform: Platform) -> None:
    health = Health(0, asyncio.Event(), platform)
    tail = await platform.tails.of("r1")
    tail.asked = 5
    assert "catching up with r1" == health.ready()
    tail.position = 5
    assert "" == health.ready()


def test_a_loop_that_stood_still_is_not_live() -> None:
    health = Health(0, asyncio.Event())
    assert "" == health.live()
    health.tick -= OLDEST_TICK + 1
    assert "the loop stood still for 11 s" == health.live()


async def test_a_taken_port_is_named(server: Server, settings: Settings, tmp_path: Path) -> None:
    async with served("conductor", server, settings) as (_, port):
        await until(port, "/live", (200, "ok"))
        environment = os.environ | {
            "EVOLVENT_HOME": str(tmp_path / "second"),
            "EVOLVENT_NATS_URL": server.url,
            "EVOLVENT_NATS_TOKEN": server.token,
            "EVOLVENT_HEALTH_PORT": str(port),
        }
        command = [sys.executable, "-m", "evolvent_conductor"]
        second = await spawn(command, env=environment, stderr=asyncio.subprocess.PIPE)
        _, said = await asyncio.wait_for(second.communicate(), 30)
    assert 1 == second.returncode
    assert b"EVOLVENT_HEALTH_PORT" in said


async def test_what_is_no_request_gets_no_answer_and_breaks_nothing(server: Server, settings: Settings) -> None:
    async with served("conductor", server, settings) as (_, port):
        await until(port, "/live", (200, "ok"))
        for noise in (b"\r\n\r\n", b"\xff" * 8000 + b"\r\n\r\n", b"GET\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            with contextlib.suppress(ConnectionError):
                assert b"" == await asyncio.wait_for(reader.read(), 10)
            writer.close()
        assert (200, "ok") == await get(port, "/live")
