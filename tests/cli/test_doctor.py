"""`evolvent doctor` sees what is wrong, names it, and mends streams and consumers."""

import asyncio
import os
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from evolvent.platform import Platform
from evolvent.provision import provision
from evolvent.settings import Settings
from evolvent_schemas import RunSteered
from tests.cli.shell import checks, evolvent

LOCAL = {"python", "nats-server", "home", "disk", "sandbox", "scipy", "torch", "model"}
UNSAFE = "--allow-unsafe-sandbox"
"""Changes nothing where candidates can be contained."""


def doctor(cwd: Path, *options: str | Path, **environment: str) -> CompletedProcess[str]:
    return evolvent("doctor", "--json", UNSAFE, *options, cwd=cwd, **environment)


async def examine(settings: Settings, *options: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Look at a home whose server runs in this very process."""
    environment |= {"EVOLVENT_ACK_WAIT": str(settings.ack_wait)}
    done = await asyncio.to_thread(doctor, settings.home.parent, "--home", settings.home, *options, **environment)
    return done.returncode, checks(done)


def test_a_machine_that_can_run_passes_and_nothing_is_written(tmp_path: Path):
    done = doctor(tmp_path)
    assert 0 == done.returncode, done.stdout
    found = checks(done)
    assert LOCAL | {"server"} == set(found)
    assert found["sandbox"]["seen"].startswith("tier T")
    assert found["nats-server"]["seen"].startswith("2.")
    assert [] == list(tmp_path.iterdir())


def test_each_line_for_people_is_a_check(tmp_path: Path):
    done = evolvent("doctor", UNSAFE, cwd=tmp_path)
    assert LOCAL | {"server"} == {line.split()[1] for line in done.stdout.splitlines() if line[0] in "✓!✗"}


def test_a_home_that_is_a_file_is_found(tmp_path: Path):
    (tmp_path / "home").write_text("")
    done = doctor(tmp_path, "--home", "home")
    assert 1 == done.returncode
    assert "--home" in checks(done)["home"]["mend"]


def test_a_server_that_does_not_answer_is_found(tmp_path: Path):
    done = doctor(tmp_path, EVOLVENT_NATS_URL="nats://127.0.0.1:1")
    assert 1 == done.returncode
    assert "EVOLVENT_NATS_URL" in checks(done)["server"]["mend"]


async def test_a_home_is_told_to_be_served_and_by_whom(platform: Platform, settings: Settings):
    code, found = await examine(settings)
    assert 0 == code, found
    assert f"process {os.getpid()}" in found["home"]["seen"]
    assert "as they should be" == found["streams"]["seen"]
    assert "0 facts" in found["log room"]["seen"]


async def test_a_lost_consumer_is_found_and_brought_back(platform: Platform, settings: Settings):
    await platform.wire.api("CONSUMER.DELETE.LOG.analyzer")
    code, found = await examine(settings)
    assert (1, "consumer analyzer is missing") == (code, found["streams"]["seen"])
    assert "--repair" in found["streams"]["mend"]

    code, found = await examine(settings, "--repair")
    assert 0 == code
    assert "mended: consumer analyzer created" == found["streams"]["seen"]


async def test_a_log_that_is_nearly_full_is_told_and_a_higher_limit_repairs_it(platform: Platform, settings: Settings):
    await provision(platform.wire, settings.model_copy(update={"log_max_bytes": 1_000_000}))
    for ordinal in range(2):
        await platform.log("conductor").append(RunSteered(run="r1", ordinal=ordinal, text="x" * 465_000))
    code, found = await examine(settings, EVOLVENT_LOG_MAX_BYTES="1000000")
    assert (0, "warn") == (code, found["log room"]["verdict"])
    assert "EVOLVENT_LOG_MAX_BYTES" in found["log room"]["mend"]

    code, found = await examine(settings, "--repair", EVOLVENT_LOG_MAX_BYTES="100000000")
    assert (0, "ok") == (code, found["log room"]["verdict"])
    assert 2 == int(found["log room"]["seen"].split()[0])
