"""A run whose every candidate is hostile still closes exactly its rounds, and leaves nothing behind."""

import asyncio
from pathlib import Path
from typing import Any

from evolvent import runs, task
from evolvent.platform import Platform
from evolvent.provision import ROLES
from evolvent.serve import factory
from evolvent.service import Runner, Service
from evolvent_schemas import CandidateProposed, KnowledgeRetrieved, RoundClosed, RunFinished
from evolvent_schemas.values import Program
from tests.engineer.laboratory import RETURNED
from tests.engineer.test_attacks import ATTACKS
from tests.engineer.test_attacks import RETURNED as DEFAULT

TASK = """
name = "hostile"
title = "Every candidate attacks"
width = 2

[objective]
metric = "score"

[program]
functions = ["run"]

[[stages]]
name = "explore"
settings = { target = "1 /nowhere nobody /etc/shadow /nowhere 1 /nowhere" }

[stages.limits]
wall_seconds = 4
cpu_seconds = 2
memory_mb = 256
disk_mb = 16
files = 200
output_kb = 64
"""
PROGRAMS = [attack.program for attack in ATTACKS.values() if attack.evaluate == DEFAULT and not attack.stage][::3]


def folder(where: Path) -> Path:
    (where / "baseline").mkdir(parents=True)
    (where / "task.toml").write_text(TASK)
    (where / "brief.md").write_text("Attack.")
    (where / "evaluate.py").write_text(RETURNED)
    (where / "baseline" / "program.py").write_text("def run(target):\n    return 0.5\n")
    return where


async def propose_an_attack(cause: Any, _studio: Any, _effects: Any) -> list[CandidateProposed]:
    number = cause.fact.round
    files = {"program.py": PROGRAMS[int(number)]}
    return [
        CandidateProposed(
            run=cause.fact.run,
            candidate=f"{number}.0",
            program=Program.of(files),
            proposer="hostile",
            motivation="to get out",
        )
    ]


def ring(platform: Platform) -> list[Service[Any]]:
    found = [factory(role)(platform) for role in ROLES]
    return [
        Service(one.role, one.fold, {**one.handlers, KnowledgeRetrieved: propose_an_attack})
        if one.role == "researcher"
        else one
        for one in found
    ]


async def test_every_hostile_round_closes_once_and_no_role_fails(platform: Platform, tmp_path: Path) -> None:
    runners = [Runner(platform, service) for service in ring(platform)]
    working = [asyncio.create_task(runner.run()) for runner in runners]
    plan = runs.Plan(task.load(folder(tmp_path / "task")), 1, {"rounds": len(PROGRAMS)}, {})
    name = await runs.start(platform, plan)
    finished = await ended(platform, name)
    for runner in runners:
        runner.stop()
    await asyncio.gather(*working)

    closed = [r.fact for r in await platform.log("test").run(name) if isinstance(r.fact, RoundClosed)]
    assert "completed" == finished.state
    assert len(PROGRAMS) == finished.rounds_closed
    assert {"h0", *(str(number) for number in range(len(PROGRAMS)))} == {fact.round for fact in closed}
    assert {"completed", "candidate_failed"} >= {fact.outcome for fact in closed}
    assert [] == [path.name for path in (platform.settings.home / "work").glob("engineer-*/*")]


async def ended(platform: Platform, name: str) -> RunFinished:
    async with asyncio.timeout(120):
        async for record in platform.log("test").follow([f"evo.{name}.run.finished"]):
            assert isinstance(record.fact, RunFinished)
            return record.fact
    raise AssertionError("the log ended")
