"""The evaluator's container: measures the program through the socket, and publishes one signed result.

The task's `evaluate.py` runs in a confined child that has neither the key nor the network.
"""

import asyncio
import os
import re
import sys

import orjson

from evolvent.clock import monotonic
from evolvent.provision import RESULT_STREAM
from evolvent_engineer import kernel
from evolvent_engineer.backend import Experiment, Failed, Outcome, Report
from evolvent_engineer.pod.bus import bus
from evolvent_engineer.pod.remote import Link, PodCells
from evolvent_engineer.pod.results import sign
from evolvent_engineer.pod.servers import fork_server
from evolvent_engineer.pod.settings import Evaluating
from evolvent_engineer.progress import Progress
from evolvent_engineer.running import Evaluation
from evolvent_schemas import envelope, subjects

_GRACE_SECONDS = 2.0
"""A lost connection is told so long after it was seen, so that the peer that was lost tells first why it ended.

Both are seen within milliseconds of each other; two seconds leave room for a busy machine and a busy bus.
"""
_LOST = re.compile(r"connection|peer|socket|network|broken ?pipe|timed out|timeout|eof|gloo|nccl", re.IGNORECASE)
"""Words of an exception that a lost peer raises in a program, of Python's sockets, gloo or NCCL (`ncclRemoteError`)."""


async def evaluate() -> None:
    """Run the experiment and publish its result, a failure as well as a score. Of several pods, each publishes its own.

    Raises:
        Refused, ServerError, TimeoutError: a container cannot do its part.
        Unreachable, Permanent: the bus does not take the result.
    """
    settings = Evaluating()
    _hide()
    async with bus(settings) as wire:
        identity = settings.identity
        report = Progress(wire).of(identity.run, identity.key) if settings.rank == 0 else None
        outcome = await _measure(settings, report)
        subject = subjects.result(identity.run, identity.key)
        body, headers = sign(settings.slip, outcome, settings.signing_key.get_secret_value(), rank=settings.rank)
        await wire.store(subject, body, headers | {envelope.EXPECTED_STREAM: RESULT_STREAM})


def _hide() -> None:
    """Keep the key from what runs beside us as the same user: out of /proc and of every tracer's reach."""
    os.environ.pop("EVOLVENT_SIGNING_KEY", None)
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


async def _measure(settings: Evaluating, report: Report | None) -> Outcome:
    experiment = Experiment(
        id=settings.experiment,
        bundle=settings.task,
        files=orjson.loads(settings.files.read_bytes()),
        program=settings.spec,
        stage=settings.stage,
        metric=settings.metric,
        seed=settings.seed,
        report=report,
    )
    async with fork_server(settings.work, settings.sandbox) as server:
        link = await Link.connect(settings.socket, settings.fault, settings.group_seconds)
        try:
            evaluation = Evaluation(experiment, PodCells(server, settings.work, settings.sandbox, link))
            outcome = await evaluation.run()
        finally:
            await link.close()
    if settings.pods > 1 and isinstance(outcome, Failed) and lost_a_peer(outcome):
        seen = evaluation.failed_at or monotonic()
        await asyncio.sleep(max(0.0, seen + _GRACE_SECONDS - monotonic()))
    return outcome


def lost_a_peer(failed: Failed) -> bool:
    """Tell whether a program may have failed because another rank did; only its last exception's own text counts.

    A program that words its failure so is only heard later than its peers.
    """
    lines = failed.message.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    text = "\n".join(lines[frames[-1] + 1 if frames else 0 :])
    return failed.reason == "crashed" and _LOST.search(text) is not None
