"""Folded states on disk, so that going to a fact far into a run is cheap. A cache."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import structlog
from pydantic import BaseModel, ValidationError

from evolvent.folds import Fold, S, State
from evolvent.log import Log, Record
from evolvent_schemas import Fact

FIRST_SNAPSHOT = 2000
"""Facts folded before the first snapshot; the next comes at half as many again, so that their cost stays linear."""

logger = structlog.get_logger()


class _Snapshot(BaseModel):
    """A state with the fact it ends at; the fact's subject finds its position in any copy of the log."""

    subject: str
    id: UUID
    folded: int
    state: Any


@dataclass
class Snapshots:
    """Folded states on disk. A cache: it may be deleted at any time, and what cannot be read is ignored."""

    folder: Path
    _taken: dict[tuple[str, str], int] = field(default_factory=dict)
    """Facts folded at the last snapshot, by fold and run."""

    def _of(self, fold: Fold[S], run: str) -> Path:
        return self.folder / f"{fold.name}-v{fold.version}" / run

    def due(self, fold: Fold[S], run: str, folded: int) -> bool:
        return folded >= FIRST_SNAPSHOT and folded >= 1.5 * self._taken.get((fold.name, run), 0)

    async def save(self, fold: Fold[S], record: Record[Fact], state: S, folded: int) -> None:
        """Write the state that ends with this fact; a full disk is reported and otherwise harmless."""
        folder = self._of(fold, record.fact.run)
        self._taken[fold.name, record.fact.run] = folded
        try:
            await asyncio.to_thread(_write, folder, record, state, folded)
        except OSError as error:
            await logger.awarning("snapshot.failed", folder=str(folder), error=str(error))

    async def load(self, log: Log, fold: Fold[S], run: str, before: int | None = None) -> tuple[int, S, int]:
        """Find the newest snapshot not after `before`: position, state, facts folded; without one, the start."""
        folder = self._of(fold, run)
        for path in sorted(folder.glob("*.json"), reverse=True):
            with contextlib.suppress(ValidationError, ValueError, OSError):
                snapshot = _Snapshot.model_validate_json(await asyncio.to_thread(path.read_bytes))
                record = await log.read(snapshot.subject)
                if record is None or record.id != snapshot.id or (before is not None and record.sequence > before):
                    continue
                self._taken[fold.name, run] = max(self._taken.get((fold.name, run), 0), snapshot.folded)
                return record.sequence, fold.state.model_validate(snapshot.state), snapshot.folded
        return 0, fold.state(), 0


def _write(folder: Path, record: Record[Fact], state: State, folded: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = _Snapshot(subject=record.fact.subject, id=record.id, folded=folded, state=state.model_dump(mode="json"))
    part = folder / f".{folded:012d}.part"
    part.write_bytes(orjson.dumps(snapshot.model_dump(mode="json"), option=orjson.OPT_NON_STR_KEYS))
    part.replace(folder / f"{folded:012d}.json")
