"""A state at a fact is the fold of everything up to it, however it is come by."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolvent import history, snapshots
from evolvent.errors import Transient
from evolvent.folds import Fold
from evolvent.history import Tails
from evolvent.log import Log, Record
from evolvent.snapshots import Snapshots
from evolvent_conductor import life
from evolvent_schemas import Fact, RunFinished, RunHalted
from tests.platform import life_model, roles
from tests.platform.facts import halted, opened
from tests.platform.life_model import ENDS, Model

FOLDS: tuple[Fold[Any], ...] = (roles.FOLD, life.FOLD)
RUNS = itertools.count()


def _log_of_a_run(choices: Sequence[tuple[int, str]]) -> list[Fact]:
    """Let a run go as the choices say, and give its log."""
    model = Model(life_model.settings(6, 2, pause_after=9))
    model.start()
    model.ingest()
    for pick, end in choices:
        if model.opened:
            model.settle(model.opened[pick % len(model.opened)], end)
    return list(model.log.values())


async def _append(log: Log, facts: Sequence[Fact]) -> list[Record[Fact]]:
    """Store a run under a name of its own and read it back."""
    run = f"h{next(RUNS)}"
    for fact in facts:
        await log.append(fact.model_copy(update={"run": run}))
    return await log.run(run)


def _prefix(fold: Fold[Any], records: Sequence[Record[Fact]], sequence: int) -> Any:
    state = fold.state()
    for record in records:
        if record.sequence <= sequence:
            state = fold.advance(state, record)
    return state


async def _check(log: Log, folder: Path, records: Sequence[Record[Fact]], order: Sequence[int]) -> None:
    """Ask for the state at every fact, in this order, and compare each with the fold of the prefix."""
    tails = Tails(log, Snapshots(folder))
    for fold in FOLDS:
        tails.register(fold)
    tail = await tails.of(records[0].fact.run)
    try:
        for fold in FOLDS:
            read = [record for record in records if fold.reads(record.fact)]
            for pick in order if read else ():
                record = read[pick % len(read)]
                assert _prefix(fold, records, record.sequence) == await tail.histories[fold.name].at(record.sequence)
    finally:
        await tails.close()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    choices=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(ENDS)), min_size=3, max_size=25),
    order=st.lists(st.integers(0, 60), min_size=6, max_size=12),
)
async def test_versions_snapshots_and_rebuilds_agree_with_the_fold_of_the_prefix(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: list[tuple[int, str]], order: list[int]
) -> None:
    """Few versions are remembered and snapshots come early, so that every way to a state is taken."""
    monkeypatch.setattr(history, "REMEMBERED", 3)
    monkeypatch.setattr(snapshots, "FIRST_SNAPSHOT", 2)
    records = await _append(log, _log_of_a_run(choices))
    run = records[0].fact.run
    await _check(log, tmp_path, records, [-1, *order])
    taken = _snapshots(tmp_path, run)
    assert taken
    await _check(log, tmp_path, records, order)
    for number, path in enumerate(taken):
        _damage(path, number)
    await _check(log, tmp_path, records, order)


def _snapshots(folder: Path, run: str) -> list[Path]:
    return sorted(folder.glob(f"*/{run}/*.json"))


def _damage(path: Path, how: int) -> None:
    """Delete it, cut it, or fill it with something else."""
    match how % 4:
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(path.read_bytes()[:-20])
        case 2:
            path.write_text('{"subject": "evo.other.run.finished", "id": 1, "folded": -1, "state": null}')
        case _:
            path.write_bytes(b"\xff\x00")


async def test_a_snapshot_of_an_older_fold_is_not_read(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "FIRST_SNAPSHOT", 2)
    records = await _append(log, [opened(str(n)) for n in range(4)])
    await _check(log, tmp_path, records, [3])
    for path in _snapshots(tmp_path, records[0].fact.run):
        path.write_text(path.read_text().replace('"rounds":["0"', '"rounds":["7"'))
    tails = Tails(log, Snapshots(tmp_path))
    tails.register(Fold(name="opened", version=2, state=roles.Opened, facts=roles.FOLD.facts, step=roles.step))
    tail = await tails.of(records[0].fact.run)

    assert ("0", "1", "2", "3") == (await tail.histories["opened"].at(records[3].sequence)).rounds
    await tails.close()


async def test_a_halt_is_known_to_a_process_that_begins_at_a_snapshot(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "FIRST_SNAPSHOT", 2)
    finished = RunFinished(run="r1", state="halted", message="", rounds_closed=0, rounds_failed=0)
    records = await _append(log, [*(opened(str(n)) for n in range(4)), halted(), finished])
    for _ in range(2):
        tails = Tails(log, Snapshots(tmp_path))
        tails.register(roles.FOLD)
        tail = await tails.of(records[0].fact.run)
        await tail.reach(records[-1].sequence)
        assert tail.halted.is_set()
        assert tail.finished
        await tails.close()
    assert isinstance(records[4].fact, RunHalted)


async def test_a_tail_that_could_not_begin_is_begun_anew(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that does not answer once must not cost a run its role for ever."""

    class Flaky(Snapshots):
        left = 1

        async def load(self, *arguments: Any, **named: Any) -> Any:
            if Flaky.left:
                Flaky.left -= 1
                raise Transient("no leader")
            return await super().load(*arguments, **named)

    records = await _append(log, [opened(str(n)) for n in range(3)])
    tails = Tails(log, Flaky(tmp_path))
    tails.register(roles.FOLD)
    tail = await tails.of(records[0].fact.run)
    with pytest.raises(Transient):
        await tail.histories["opened"].at(records[2].sequence)

    assert ("0", "1", "2") == (await tail.histories["opened"].at(records[2].sequence)).rounds
    await tails.close()
