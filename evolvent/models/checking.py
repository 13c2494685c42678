"""What `evolvent doctor` finds out about the models that are set up here."""

import asyncio

from evolvent.checks import Check
from evolvent.errors import Refused
from evolvent.models.client import Models, Probe
from evolvent.models.settings import ModelSettings


def checks() -> list[Check]:
    """Ask each model for one word, which costs a few dozen tokens; without a key nothing is asked.

    Must run where no event loop does.
    """
    try:
        settings = ModelSettings.load()
        if not settings.api_key.get_secret_value() and not settings.names:
            return [Check("model", "ok", "none is set up; programs are designed by operators")]
        settings.check()
    except Refused as error:
        return [Check("model", "warn", str(error), "set what is missing, or neither; runs without a model need none")]
    return asyncio.run(_probed(settings))


async def _probed(settings: ModelSettings) -> list[Check]:
    try:
        async with Models(settings) as models:
            return [_check(await models.probe(name)) for name in settings.names]
    except Refused as error:
        return [Check("model", "fail", str(error), "correct the file")]


def _check(probe: Probe) -> Check:
    name = f"model {probe.model}"
    if probe.problem:
        mend = "see what the endpoint said" if probe.reachable else "start it, or correct EVOLVENT_MODEL_BASE_URL"
        return Check(name, "fail", probe.problem, mend)
    measured = {"latency_seconds": probe.latency_seconds}
    seen = f"answers at {probe.base_url} after {probe.latency_seconds:.1f} s"
    lacks = [
        text
        for lacking, text in (
            (not probe.structured, "takes no JSON Schema, so answers are read from text"),
            (probe.listed is False, "is not in the endpoint's own list"),
        )
        if lacking
    ]
    seen = "; ".join((seen, *lacks))
    if not probe.priced:
        mend = "to budget in money, give a price in the file named by EVOLVENT_MODEL_PRICES"
        return Check(name, "warn", f"{seen}; it has no price", mend, measured)
    return Check(name, "ok", seen, measured=measured)
