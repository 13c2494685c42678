"""What the command line says when the bus refuses, is not there, or lacks its streams: one line, and how to mend it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import pytest_asyncio

from evolvent import acl
from evolvent.log import STREAM
from evolvent.platform import dial
from tests.cli.shell import checks, evolvent
from tests.cluster.servers import PASSWORDS, Guarded, guarded
from tests.platform.servers import Node, free_ports

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """A bus whose log nobody has made."""
    async with guarded(tmp_path_factory.mktemp("refusing"), 1) as found:
        async with dial(found.settings(acl.PROVISIONER), "test") as wire:
            await wire.api(f"STREAM.DELETE.{STREAM}")
        yield found


async def command(bus: Guarded, user: str, *words: str, **more: str) -> CompletedProcess[str]:
    environment = {
        "EVOLVENT_NATS_URL": bus.nodes[0].url,
        "EVOLVENT_NATS_USER": user,
        "EVOLVENT_NATS_PASSWORD": PASSWORDS[acl.variable(user)],
    }
    return await asyncio.to_thread(evolvent, *words, cwd=bus.home, **(environment | more))


async def test_who_may_not_make_streams_is_told_so_at_once_and_who_may(bus: Guarded) -> None:
    done = await command(bus, "user", "deploy", "provision")
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert "the bus user 'user' may not publish to $JS.API.STREAM.CREATE.LOG" in done.stderr
    assert "`provisioner` makes" in done.stderr


async def test_who_may_not_read_the_log_is_told_so(bus: Guarded) -> None:
    done = await command(bus, acl.EXPERIMENT, "runs")
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert "the bus user 'experiment' may not publish to $JS.API.STREAM.INFO.LOG" in done.stderr


async def test_a_log_that_nobody_has_made_is_told_with_who_makes_it(bus: Guarded) -> None:
    task = Path(__file__).parents[1] / "e2e" / "task"
    for words in (("runs",), ("start", str(task))):
        done = await command(bus, "user", *words)
        assert (1, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
        assert "the server has no stream LOG" in done.stderr
        assert "`evolvent deploy provision` as the bus user `provisioner`" in done.stderr


async def test_the_doctor_tells_who_makes_a_missing_log(bus: Guarded) -> None:
    found = checks(await command(bus, "user", "doctor", "--cluster", "--json"))
    for name in ("streams", "log room"):
        assert "`evolvent deploy provision` as the bus user `provisioner`" in found[name]["mend"]


async def test_the_doctor_names_the_user_that_may_not_repair_and_finds_the_server(bus: Guarded) -> None:
    done = await command(bus, "user", "doctor", "--cluster", "--repair", "--json")
    found = checks(done)
    assert ("ok", "fail") == (found["server"]["verdict"], found["streams"]["verdict"])
    assert "the bus user 'user' may not publish to $JS.API.STREAM.CREATE.LOG" in found["streams"]["seen"]
    assert "JetStream" not in found["streams"]["mend"]


async def test_a_wrong_password_is_no_missing_server(bus: Guarded) -> None:
    done = await command(bus, "user", "doctor", "--cluster", "--json", EVOLVENT_NATS_PASSWORD="wrong")
    server = checks(done)["server"]
    assert (1, "fail") == (done.returncode, server["verdict"])
    assert "EVOLVENT_NATS_USER and EVOLVENT_NATS_PASSWORD" in server["seen"]
    assert "the user and the password" in server["mend"]
    assert "evolvent run" not in str(server)


async def test_the_doctor_of_a_cluster_tells_how_its_bus_comes_within_reach(bus: Guarded) -> None:
    done = await command(bus, "user", "doctor", "--cluster", "--json", EVOLVENT_NATS_URL="nats://127.0.0.1:1")
    assert "kubectl -n evolvent port-forward svc/nats 4222" in checks(done)["server"]["mend"]


async def test_a_server_whose_answer_never_comes_is_one_line_and_counts_as_unreachable(tmp_path: Path) -> None:
    deaf = 'authorization { users: [{user: u, password: p, permissions: {subscribe: {deny: ["_INBOX.>"]}}}] }'
    node = Node(tmp_path / "node", free_ports(1)[0], deaf)
    await node.start()
    try:
        login = {"EVOLVENT_NATS_URL": node.url, "EVOLVENT_NATS_USER": "u", "EVOLVENT_NATS_PASSWORD": "p"}
        done = await asyncio.to_thread(evolvent, "deploy", "provision", cwd=tmp_path, **login)
    finally:
        await node.kill()
    assert (3, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert "$JS.API.STREAM.INFO.LOG had no answer within 5 s" in done.stderr
