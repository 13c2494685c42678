"""How the pods of one experiment meet, what their sandboxes may reach, and what all they tell comes to."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from evolvent.errors import Permanent
from evolvent_engineer import wire
from evolvent_engineer.backend import Completed, Experiment, Failed, Outcome
from evolvent_engineer.confinement import Spec
from evolvent_engineer.handlers import SHOWN
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.settings import Order
from evolvent_engineer.local import LocalBackend
from evolvent_engineer.pod.evaluate import lost_a_peer
from evolvent_engineer.pod.group import gather
from evolvent_engineer.pod.results import Told, agreed, sign
from evolvent_engineer.pod.servers import fork_server
from evolvent_engineer.pod.settings import Keeping
from evolvent_schemas.values import ProgramSpec
from tests.kubernetes.orders import SPEC, stage
from tests.kubernetes.test_pod import FORGED, GOOD, depot, place, slip, tell
from tests.kubernetes.waiting import free_port

__all__ = ["depot"]
CRASHED = Failed("crashed", "connection closed by peer")
STARVED = Failed("memory_limit", "memory reached 600 MiB")


@pytest.fixture
def port() -> int:
    return free_port()


def keeping(index: int, port: int, pods: int = 3, **more: Any) -> Keeping:
    given = {"spec": SPEC, "pods": pods, "JOB_COMPLETION_INDEX": index, "group_port": port, "group_seconds": 10}
    return Keeping.model_validate(given | {"group_host": "localhost"} | more)


# meeting


async def test_the_ranks_meet_in_any_order_and_learn_one_address(port: int) -> None:
    others = [asyncio.create_task(gather(keeping(rank, port))) for rank in (2, 1)]
    await asyncio.sleep(0.2)
    first = await gather(keeping(0, port))
    second, third = reversed([await each for each in others])
    assert ["0", "1", "2"] == [each["RANK"] for each in (first, second, third)]
    for each in (first, second, third):
        assert ("127.0.0.1", str(port), "3") == (each["MASTER_ADDR"], each["MASTER_PORT"], each["WORLD_SIZE"])


async def test_the_port_is_free_for_the_program_when_the_ranks_have_met(port: int) -> None:
    await asyncio.gather(*(gather(keeping(rank, port)) for rank in range(3)))
    with socket.socket() as plain:  # not even with SO_REUSEADDR
        plain.bind(("127.0.0.1", port))


async def test_a_rank_that_does_not_come_is_named(port: int) -> None:
    present = asyncio.create_task(gather(keeping(1, port, pods=4, group_seconds=2)))
    with pytest.raises(TimeoutError, match=r"rank 2, 3 of 4 did not come within 1 s"):
        await gather(keeping(0, port, pods=4, group_seconds=1))
    with pytest.raises(TimeoutError, match=r"rank 1 did not meet rank 0 at localhost:.* within 2 s"):
        await present


async def test_a_name_that_is_never_known_is_named() -> None:
    with pytest.raises(TimeoutError, match=r"rank 1 did not meet rank 0 at nobody\.invalid:29500 within 1 s: .+"):
        await gather(keeping(1, 29500, group_host="nobody.invalid", group_seconds=1))


async def test_whoever_says_no_rank_does_not_count_nor_a_rank_that_has_gone_again(port: int) -> None:
    first = asyncio.create_task(gather(keeping(0, port)))
    await asyncio.sleep(0.1)
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", (0).to_bytes(4), (3).to_bytes(4), (1).to_bytes(4)):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(words)
    await asyncio.sleep(0.3)
    second = asyncio.create_task(gather(keeping(2, port)))
    await asyncio.sleep(0.3)
    assert not first.done()
    await asyncio.gather(first, second, gather(keeping(1, port)))


@pytest.mark.parametrize("index", [None, 3, -1])
def test_a_pod_of_several_without_its_index_does_not_start(index: int | None) -> None:
    with pytest.raises(ValidationError):
        keeping(index, 29500)  # type: ignore[arg-type]


# what a sandbox may reach

LOOK = """
import os, socket

def look():
    found = []
    for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"):
        for kind in ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_SEQPACKET"):
            try:
                socket.socket(getattr(socket, family), getattr(socket, kind)).close()
                found.append(f"{family} {kind}")
            except PermissionError:
                pass
            except OSError as error:
                found.append(f"{family} {kind}: {error}")
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()  # SCTP
        found.append("sctp")
    except PermissionError:
        pass
    return [found, [name for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE") if name in os.environ]]

def tables():
    own = f"/proc/self/task/{os.getpid()}/net"
    found = []
    for place in ("/proc/self/net", own, "/proc/thread-self/net", "/proc/net"):
        for table in ("tcp", "tcp6", "unix", "dev"):
            try:
                open(f"{place}/{table}").close()
                found.append(f"{place}/{table}")
            except PermissionError:
                pass
    return found

def reach(port):
    import socket
    with socket.create_connection(("127.0.0.1", port)) as found:
        return found.recv(5)
"""
GROUP = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "2"}
STREAMS = ["AF_INET SOCK_STREAM", "AF_INET6 SOCK_STREAM"]
INTERFACES = ["AF_NETLINK SOCK_DGRAM", "AF_NETLINK SOCK_RAW"]
Sandbox = Literal["T2", "T3"]


class Bench:
    """One fork server that may give its children a group."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._server = server
        self._folder = folder

    async def call(self, name: str, group: dict[str, str] | None, function: str, *arguments: Any) -> Any:
        (scratch := self._folder / name).mkdir()
        ours, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_WRONLY)
        spec = Spec(name, "candidate", str(scratch), None, (), None, 2**28, 20.0, 0, 2**24, 100, group)
        with ours, theirs:
            await self._server.spawn(spec, theirs.fileno(), null)
            theirs.close()
            os.close(null)
            return await asyncio.to_thread(self._converse, ours, [function, list(arguments), {}])

    def _converse(self, channel: socket.socket, request: list[Any]) -> Any:
        setup = {"files": {"program.py": LOOK}, "entry": "program.py", "seed": 1, "threads": 1, "frame_limit": 2**20}
        wire.send(channel, setup)
        assert {"ready": True} == wire.receive(channel, limit=0)
        wire.send(channel, request)
        return wire.receive(channel, limit=2**20)["value"]


@pytest.fixture(params=["T2", "T3"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with fork_server(tmp_path / "work", request.param, grouped=True) as server:
        yield Bench(server, tmp_path)


async def test_a_grouped_sandbox_has_tcp_and_its_interfaces_and_nothing_else(bench: Bench) -> None:
    reached, variables = await bench.call("a", GROUP, "look")
    assert [*STREAMS, *INTERFACES] == [each for each in reached if ": " not in each]
    assert ["AF_NETLINK"] * 2 == [each.split()[0] for each in reached if ": " in each]  # no such type: let through
    assert list(GROUP) == variables


async def test_only_beside_a_gpu_a_grouped_sandbox_has_what_nccl_binds_at_its_start(tmp_path: Path) -> None:
    async with fork_server(tmp_path / "work", "T2", devices=("/dev/null",), grouped=True) as server:
        bench = Bench(server, tmp_path)
        reached, _ = await bench.call("a", GROUP, "look")
        assert [*STREAMS, "AF_UNIX SOCK_DGRAM", *INTERFACES] == [each for each in reached if ": " not in each]
        assert [[], []] == await bench.call("b", None, "look")


async def test_a_later_sandbox_beside_it_has_no_socket_and_no_variable(bench: Bench) -> None:
    """In T3 as well: where several pods train, what another says may not reach the score."""
    assert [[], []] == await bench.call("a", None, "look")


async def test_what_another_sandbox_of_the_pod_connects_is_not_to_be_read(tmp_path: Path) -> None:
    """A pod may not leave its network, so that what one sandbox names in it would be a way round what is counted."""
    async with fork_server(tmp_path / "work", "T2", grouped=True) as server:
        assert [] == await Bench(server, tmp_path).call("a", None, "tables")


async def test_a_grouped_sandbox_reaches_its_peer(bench: Bench) -> None:
    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(hello, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert b"hello" == await bench.call("a", GROUP, "reach", port)


async def test_one_machine_refuses_several_pods_and_says_what_to_do(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "work", allow_unsafe=True)
    spec = ProgramSpec(functions=("run",))
    several = stage(name="verify", settings={"pods": 2})
    experiment = Experiment("t1-1.0.verify.0.0", tmp_path, {"program.py": ""}, spec, several, "score", 1)
    with pytest.raises(Permanent, match=r"stage verify asks for pods = 2.*EVOLVENT_ENGINEER_BACKEND=kubernetes"):
        await backend.evaluate(experiment)


# what all ranks told


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ([GOOD], GOOD),
        ([CRASHED], CRASHED),
        ([FORGED, GOOD], FORGED),
        ([GOOD, CRASHED], replace(CRASHED, message="rank 1 of 2, crashed: connection closed by peer")),
    ],
)
def test_one_outcome_is_made_of_all(told: list[Outcome], outcome: Outcome) -> None:
    assert outcome == agreed([Told(rank, each) for rank, each in enumerate(told)])


def test_the_failure_that_was_told_first_is_the_cause_and_the_others_are_told_behind_it() -> None:
    found = agreed([Told(1, STARVED), Told(2, GOOD), Told(0, CRASHED)])
    assert isinstance(found, Failed)
    assert "memory_limit" == found.reason
    lines = ["rank 1 of 3, memory_limit: memory reached 600 MiB", "rank 0 of 3, crashed: connection closed by peer"]
    assert lines == found.message.splitlines()


def test_many_failures_share_the_room_of_one() -> None:
    found = agreed([Told(rank, replace(CRASHED, message="x" * 4000)) for rank in range(64)])
    assert isinstance(found, Failed)
    assert len(found.message) <= SHOWN
    assert "rank 63 of 64, crashed: xx" in found.message


TRACEBACK = 'Traceback (most recent call last):\n  File "program.py", line 9, in train\n    peer.recv(1)\n'


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("ConnectionResetError: [Errno 104] Connection reset by peer", True),
        ("RuntimeError: [../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:4711", True),
        ("torch.distributed.DistBackendError: NCCL error\nncclRemoteError: a remote process exited", True),
        ("ValueError: the cause", False),
    ],
)
def test_only_an_exceptions_own_words_tell_that_a_peer_was_lost(text: str, lost: bool) -> None:
    assert lost is lost_a_peer(Failed("crashed", f"{TRACEBACK}{text}\n"))
    assert not lost_a_peer(Failed("memory_limit", f"{TRACEBACK}{text}\n"))


def test_a_process_that_ended_did_not_lose_a_peer() -> None:
    assert not lost_a_peer(Failed("crashed", "the candidate's process ended before it answered: killed by SIGKILL"))


@pytest.fixture
async def order(depot: Depot, tmp_path: Path) -> Order:
    return await place(depot, "def run(seed):\n    return 1\n", tmp_path, settings={"pods": 2})


async def tell_as(depot: Depot, order: Order, rank: int, outcome: Outcome, key: str | None = None) -> None:
    await tell(depot, order, *sign(slip(order), outcome, key or order.key, rank=rank))


async def test_rank_0_speaks_for_all_that_completed(depot: Depot, order: Order) -> None:
    await tell_as(depot, order, 1, replace(GOOD, score=2.0))
    await tell_as(depot, order, 0, GOOD)
    assert GOOD == await depot.result(order)


async def test_a_rank_that_told_nothing_is_named_and_nobody_is_blamed(depot: Depot, order: Order) -> None:
    """Also where another failed: it may have failed because this one was lost."""
    await tell_as(depot, order, 0, CRASHED)
    found = await depot.result(order)
    assert isinstance(found, Failed)
    assert "infrastructure" == found.blame
    assert "rank 1 of 2 published no result" in found.message


async def test_a_rank_that_speaks_twice_is_heard_once(depot: Depot, order: Order) -> None:
    await tell_as(depot, order, 0, GOOD)
    await tell_as(depot, order, 0, FORGED)
    missing = await depot.result(order)
    assert isinstance(missing, Failed)
    assert "1 repeated" in missing.message
    await tell_as(depot, order, 1, GOOD)
    assert GOOD == await depot.result(order)


async def test_a_forged_rank_is_refused(depot: Depot, order: Order) -> None:
    """Neither another key's signature nor a true result under another rank's number counts."""
    await tell_as(depot, order, 0, GOOD)
    await tell_as(depot, order, 1, FORGED, key="11" * 32)
    body, headers = sign(slip(order), FORGED, order.key, rank=0)
    await tell(depot, order, body.replace(b'"rank":0', b'"rank":1'), headers)
    await tell_as(depot, order, 2, FORGED)
    found = await depot.result(order)
    assert isinstance(found, Failed)
    assert "rank 1 of 2 published no result that its key signed; found 2 forged, 1 of no rank" == found.message


@pytest.mark.parametrize("rank", [-1, True, 1.0, "1", None])
async def test_what_is_no_rank_is_no_result(rank: Any, depot: Depot, order: Order) -> None:
    await tell_as(depot, order, rank, FORGED)
    found = await depot.result(order)
    assert isinstance(found, Failed)
    assert "1 unreadable" in found.message


async def test_a_result_of_before_there_were_ranks_is_that_of_a_pod_alone(depot: Depot, tmp_path: Path) -> None:
    alone = await place(depot, "def run(seed):\n    return 1\n", tmp_path)
    assert isinstance(GOOD, Completed)
    assert GOOD == await _unranked(depot, alone)


async def _unranked(depot: Depot, order: Order) -> Outcome:
    """A body as pods of the former release sign it."""
    from dataclasses import asdict

    from evolvent_engineer.pod.results import _CONTEXT, SIGNATURE, _private
    from evolvent_schemas.values import canonical

    body = canonical({"slip": asdict(slip(order)), "completed": asdict(GOOD)})
    await tell(depot, order, body, {SIGNATURE: _private(order.key).sign(_CONTEXT + body).hex()})
    return await depot.result(order)
