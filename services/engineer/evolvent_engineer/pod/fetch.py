"""The first container: loads the task and the program by digest, checks them, and lays them out."""

from evolvent import task
from evolvent.artifacts import Artifacts
from evolvent_engineer.pod.bus import bus
from evolvent_engineer.pod.settings import Fetching


async def fetch() -> None:
    """Write `/task/bundle` and `/program/files.json`.

    Raises:
        Permanent: what is stored has another digest.
        Refused: a path of the bundle leads out of it.
        Transient, Unreachable: the bus does not answer, or lacks an artifact.
    """
    settings = Fetching()
    async with bus(settings) as wire:
        artifacts = Artifacts(wire)
        bundle, program = await artifacts.get(settings.bundle), await artifacts.get(settings.program)
    task.unpack(bundle, settings.task)
    settings.files.write_bytes(program)
