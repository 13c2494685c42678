"""A local backend with a task written on the spot, and a look at what it leaves behind."""

import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolvent_engineer.backend import Experiment, Outcome
from evolvent_engineer.local import LocalBackend
from evolvent_schemas.values import Limits, ProgramSpec, SandboxTier, Stage

LIMITS = {"wall_seconds": 8, "cpu_seconds": 3, "memory_mb": 256, "disk_mb": 16, "files": 200, "output_kb": 64}
RETURNED = """
def evaluate(candidate, settings, seed):
    return {"score": float(candidate.call("run", settings.get("target")))}
"""
"""An evaluator that believes the number it gets."""
HEALTHY = "def run(target):\n    return 1.0\n"


class Laboratory:
    """Runs one-file programs against one-file evaluators."""

    def __init__(self, folder: Path, tier: SandboxTier) -> None:
        self.folder = folder
        self.tier = tier
        self.work = folder / "work"
        self.backend = LocalBackend(self.work, allow_unsafe=tier == "T3", preload=("numpy",), tier=tier)
        self._numbers = itertools.count()

    def experiment(
        self,
        program: str,
        evaluate: str = RETURNED,
        *,
        functions: tuple[str, ...] = ("run",),
        limits: Mapping[str, Any] | None = None,
        stage: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        target: str | int | None = None,
        seed: int = 1,
    ) -> Experiment:
        number = next(self._numbers)
        bundle = self.folder / f"task-{number}"
        bundle.mkdir()
        (bundle / "evaluate.py").write_text(evaluate)
        (bundle / "heldout.txt").write_text("the answers")
        return Experiment(
            id=f"t1-{number}.0.explore.0.0",
            bundle=bundle,
            files={"program.py": program} | dict(files or {}),
            program=ProgramSpec(functions=functions),
            stage=Stage(
                limits=Limits(**(LIMITS | dict(limits or {}))), settings={"target": target}, **dict(stage or {})
            ),
            metric="score",
            seed=seed,
        )

    async def run(self, program: str, evaluate: str = RETURNED, **options: Any) -> Outcome:
        return await self.backend.evaluate(self.experiment(program, evaluate, **options))

    def left_behind(self) -> list[str]:
        """List whatever an experiment must not leave: processes, folders, control groups."""
        return sorted((*self._processes(), *self._folders(), *self._groups()))

    def _processes(self) -> list[str]:
        servers = {server.pid for server in self.backend._servers.values()}
        return [f"process {pid}" for pid in self.processes() if pid not in servers]

    def processes(self) -> list[int]:
        """Find our servers and their children, which carry the server's command line with our folder in it."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.work).encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def _folders(self) -> list[str]:
        kept = ("root-", "server-")
        return [str(path) for path in self.work.iterdir() if not path.name.startswith(kept)]

    def _groups(self) -> list[str]:
        groups = self.backend._cgroups
        if groups is None:
            return []
        return [str(group) for folder in set(groups._folders.values()) for group in folder.glob("*/")]
