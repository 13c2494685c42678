"""The evaluator's container: measures the program through the socket, and publishes one signed result.

The task's `evaluate.py` runs in a confined child that has neither the key nor the network.
"""

import os
import sys

import orjson

from evolvent.provision import RESULT_STREAM
from evolvent_engineer import kernel
from evolvent_engineer.backend import Experiment, Outcome, Report
from evolvent_engineer.pod.bus import bus
from evolvent_engineer.pod.remote import Link, PodCells
from evolvent_engineer.pod.results import sign
from evolvent_engineer.pod.servers import fork_server
from evolvent_engineer.pod.settings import Evaluating
from evolvent_engineer.progress import Progress
from evolvent_engineer.running import Evaluation
from evolvent_schemas import envelope, subjects


async def evaluate() -> None:
    """Run the experiment and publish its result, a failure as well as a score.

    Raises:
        Refused, ServerError, TimeoutError: a container cannot do its part.
        Unreachable, Permanent: the bus does not take the result.
    """
    settings = Evaluating()
    _hide()
    async with bus(settings) as wire:
        identity = settings.identity
        outcome = await _measure(settings, Progress(wire).of(identity.run, identity.key))
        subject = subjects.result(identity.run, identity.key)
        body, headers = sign(settings.slip, outcome, settings.signing_key.get_secret_value())
        await wire.store(subject, body, headers | {envelope.EXPECTED_STREAM: RESULT_STREAM})


def _hide() -> None:
    """Keep the key from what runs beside us as the same user: out of /proc and of every tracer's reach."""
    os.environ.pop("EVOLVENT_SIGNING_KEY", None)
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


async def _measure(settings: Evaluating, report: Report) -> Outcome:
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
        link = await Link.connect(settings.socket)
        try:
            return await Evaluation(experiment, PodCells(server, settings.work, settings.sandbox, link)).run()
        finally:
            await link.close()
