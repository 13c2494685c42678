"""`evolvent serve` says what it waits for, when it is ready, and as whom, and does not wait for what never comes."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from evolvent import acl
from evolvent.children import spawn
from evolvent.log import STREAM
from evolvent.platform import dial
from evolvent.provision import provision
from tests.cluster.servers import PASSWORDS, Guarded, guarded


@pytest_asyncio.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path, 1) as found:
        yield found


async def serve(bus: Guarded, role: str, user: str) -> asyncio.subprocess.Process:
    login = {
        "EVOLVENT_HOME": str(bus.home / "served"),
        "EVOLVENT_NATS_URL": bus.nodes[0].url,
        "EVOLVENT_NATS_USER": user,
        "EVOLVENT_NATS_PASSWORD": PASSWORDS[acl.variable(user)],
    }
    command = [str(Path(sys.executable).parent / "evolvent"), "serve", role]
    return await spawn(command, env=os.environ | login, stderr=asyncio.subprocess.PIPE)


async def said(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """Read what a service logs until it says this."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            if (found := json.loads(line))["event"] == event:
                return dict(found)
    pytest.fail(f"it never said {event}")


async def test_a_role_says_that_it_waits_for_the_log_and_when_it_is_ready_and_as_whom(bus: Guarded) -> None:
    async with dial(bus.settings(acl.PROVISIONER), "test") as wire:
        await wire.api(f"STREAM.DELETE.{STREAM}")
        process = await serve(bus, "conductor", "conductor")
        waiting = await said(process, "role.waiting")
        assert ("conductor", "JetStream error 10059: stream not found") == (waiting["role"], waiting["reason"])
        assert "evolvent deploy provision" in waiting["mend"]

        await provision(wire, bus.settings(acl.PROVISIONER))
        ready = await said(process, "roles.ready")
        assert (["conductor"], "conductor", bus.nodes[0].url) == (ready["roles"], ready["user"], ready["server"])
    process.terminate()
    assert 0 == await asyncio.wait_for(process.wait(), 30)


async def test_a_user_that_may_not_be_the_role_ends_it_and_is_named(bus: Guarded) -> None:
    process = await serve(bus, "conductor", acl.TOOLS)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert 1 == process.returncode
    assert b"the bus user 'tools' may not publish to $JS.API.CONSUMER.MSG.NEXT.LOG.conductor" in errors
