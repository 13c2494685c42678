"""The pods of one experiment find each other, before the clock of any of them starts and before a program runs.

Rank 0 listens; the others look its name up, connect, and say their rank. When all have come, rank 0 stops listening
and lets them go, so that its program can take the port. A pod that comes late, a name that is not known yet and a
network policy that does not hold yet cost nobody's program time, and are nobody's fault but the infrastructure's.
"""

import asyncio
import contextlib
import socket
import struct

from evolvent_engineer.pod.settings import Keeping

_RETRY_SECONDS = 0.5
_ANSWER_SECONDS = 5.0
"""For a few bytes on a connection that stands."""
_RANK = struct.Struct("!I")
_GO = b"."
_MAPPED = "::ffff:"


async def gather(settings: Keeping) -> dict[str, str]:
    """Wait for every pod of the experiment; return what leads a program to its peers, under torchrun's names.

    With `MASTER_ADDR`, `MASTER_PORT`, `RANK` and `WORLD_SIZE` in its environment, `init_process_group` needs no
    arguments but a backend. The address is a number, so that no name has to be looked up in a sandbox.

    Raises:
        TimeoutError: not all came in time; the message names who is missing, or why rank 0 was not met.
    """
    address = await (_host(settings) if settings.rank == 0 else _join(settings))
    return {
        "MASTER_ADDR": address.removeprefix(_MAPPED),
        "MASTER_PORT": str(settings.group_port),
        "RANK": str(settings.rank),
        "WORLD_SIZE": str(settings.pods),
    }


async def _host(settings: Keeping) -> str:
    """Collect all others, and return the address at which they found us."""
    came: dict[int, socket.socket] = {}
    try:
        with _listener(settings.group_port) as listener:
            async with asyncio.timeout(settings.group_seconds):
                while len(came) < settings.pods - 1:
                    await _admit(listener, came, settings.pods)
        address = str(next(iter(came.values())).getsockname()[0])
        await asyncio.gather(*map(_let_go, came.values()))
    except TimeoutError as error:
        missing = ", ".join(str(rank) for rank in range(1, settings.pods) if rank not in came)
        where = f"of {settings.pods} did not come within {settings.group_seconds:g} s"
        raise TimeoutError(f"rank {missing} {where}") from error
    finally:
        for peer in came.values():
            peer.close()
    return address


async def _let_go(peer: socket.socket) -> None:
    """Send a peer off, and have it close first, for the port of whoever closes first stays taken for a while."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # it is gone again, which its own pod tells
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_sendall(peer, _GO)
            await loop.sock_recv(peer, 1)


def _listener(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener


async def _admit(listener: socket.socket, came: dict[int, socket.socket], pods: int) -> None:
    """Take one connection; whoever says no rank is sent away, and the last that says a rank has it.

    Who has gone meanwhile is not counted, and may come again.
    """
    loop = asyncio.get_running_loop()
    peer, _ = await loop.sock_accept(listener)
    said = b""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            said = await loop.sock_recv(peer, _RANK.size)
    rank = _RANK.unpack(said)[0] if len(said) == _RANK.size else 0
    if not 0 < rank < pods:
        peer.close()
        return
    if (former := came.pop(rank, None)) is not None:
        former.close()
    came[rank] = peer
    for other in [each for each in came if _gone(came[each])]:
        came.pop(other).close()


def _gone(peer: socket.socket) -> bool:
    try:
        return peer.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def _join(settings: Keeping) -> str:
    """Meet rank 0, however late it comes, and return its address."""
    why = "it was not tried"
    try:
        async with asyncio.timeout(settings.group_seconds):
            while True:
                try:
                    return await _meet(settings)
                except (OSError, EOFError) as error:
                    why = str(error)
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError as error:
        where = f"{settings.group_host}:{settings.group_port} within {settings.group_seconds:g} s"
        raise TimeoutError(f"rank {settings.rank} did not meet rank 0 at {where}: {why}") from error


async def _meet(settings: Keeping) -> str:
    reader, writer = await asyncio.open_connection(settings.group_host, settings.group_port)
    try:
        writer.write(_RANK.pack(settings.rank))
        await reader.readexactly(len(_GO))
        return str(writer.get_extra_info("peername")[0])
    finally:
        writer.close()
