"""A researcher that dies: `python -m tests.platform.crashing CALLS MOMENT` notes each call of its effect in a file.

MOMENT: `call`, inside the first call; `record`, after the first recorded answer; `always`, on every delivery.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evolvent.journal import Answer, Effects
from evolvent.log import Record
from evolvent.platform import open_platform
from evolvent.service import Runner
from evolvent.settings import Settings
from evolvent_schemas import Fact, RoundOpened
from tests.platform.facts import sampled
from tests.platform.roles import Opened, researcher

CALLS, MOMENT = Path(sys.argv[1]), sys.argv[2]


async def decide(cause: Record[RoundOpened], _state: Opened, effects: Effects) -> Sequence[Fact]:
    if MOMENT == "always" and cause.fact.round == "0":
        os._exit(9)

    async def call() -> Answer:
        _note(f"{effects.delivery}\n")
        if MOMENT == "call" and effects.delivery == 1:
            os._exit(9)
        return Answer(41)

    pool = await effects.once("guess", {"ask": "pool"}, call)
    if MOMENT == "record" and effects.delivery == 1:
        os._exit(9)
    return [sampled(cause.fact.round, pool=pool + 1)]


def _note(line: str) -> None:
    with CALLS.open("a") as calls:
        calls.write(line)


async def main() -> None:
    async with open_platform(Settings(), "researcher") as platform:
        await Runner(platform, researcher(decide)).run()


if __name__ == "__main__":
    asyncio.run(main())
