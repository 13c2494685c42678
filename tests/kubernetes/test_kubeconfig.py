"""The suite that is run against real servers runs against any server that a kubeconfig names."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kubernetes.access import Access, kubeconfig
from tests.kubernetes.fake import ADMIN_TOKEN, LIMITED_TOKEN, ApiServer, Cluster, Node
from tests.kubernetes.fake.clock import Clock
from tests.kubernetes.test_conformance import EXCHANGES, PODS_END, THIS_SERVER

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def without_kubelet() -> AsyncIterator[ApiServer]:
    """In real time, as the recorded server was."""
    cluster = Cluster(Clock(datetime.now(UTC)), nodes=(Node("sim-h100-0"),), kubelet=False)
    async with ApiServer(cluster, rate=1.0) as found:
        yield found


@pytest.fixture
def config(without_kubelet: ApiServer, tmp_path: Path) -> Path:
    return kubeconfig(tmp_path / "config", without_kubelet.url, {"admin": ADMIN_TOKEN, "limited": LIMITED_TOKEN})


async def _suite(config: Path, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kubernetes/test_conformance.py", "-rA"]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | {"KUBECONFIG": str(config)} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    shown, _ = await process.communicate()
    assert 0 == process.returncode, shown.decode()
    return shown.decode()


def _passed(shown: str) -> int:
    return sum(line.startswith("PASSED") and "the_answer_is" in line for line in shown.splitlines())


async def test_a_control_plane_without_nodes_is_asked_all_but_what_its_build_decides(config: Path) -> None:
    shown = await _suite(config, STAND_IN_KUBELET="1")
    assert sum(not name.startswith(THIS_SERVER) for name in EXCHANGES) == _passed(shown)
    assert "v1.36.2" in shown


async def test_a_cluster_with_nodes_of_its_own_is_asked_nothing_that_needs_ours(config: Path) -> None:
    shown = await _suite(config)
    assert sum(not name.startswith(THIS_SERVER + PODS_END) for name in EXCHANGES) == _passed(shown)


def test_a_user_without_a_token_is_refused(config: Path) -> None:
    """A certificate would answer for the requests that are meant to be anonymous."""
    config.write_text(config.read_text().replace("token: admin-token", "client-key: key"))
    with pytest.raises(ValueError, match="user admin needs a token"):
        Access.of(config)
