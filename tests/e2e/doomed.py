"""A researcher that kills itself with SIGKILL at its first effect: before it is recorded, or right after."""

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

from evolvent import telemetry
from evolvent.log import Log, Record
from evolvent.platform import open_platform
from evolvent.service import Runner
from evolvent.settings import Settings
from evolvent_researcher import service
from evolvent_schemas import ROOT, EffectRecorded, Fact


class Doomed(Log):
    """A log in which recording an effect is the last thing that happens, or nearly."""

    async def append(self, fact: Fact, *, cause: UUID = ROOT) -> Record[Fact]:
        if isinstance(fact, EffectRecorded) and sys.argv[1] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        stored = await super().append(fact, cause=cause)
        if isinstance(fact, EffectRecorded) and sys.argv[1] == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return stored


async def _main() -> None:
    telemetry.to_stderr()
    async with open_platform(Settings(), "doomed") as platform:
        runner: Runner[Any] = Runner(platform, service(platform))
        runner.log = Doomed(platform.wire, "researcher")
        await runner.run()


if __name__ == "__main__":
    asyncio.run(_main())
