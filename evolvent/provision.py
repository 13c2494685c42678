"""Make the streams and the durable consumers, and notice when they are not what they should be."""

from typing import Any

from evolvent import artifacts, log, shared
from evolvent.errors import Rejected
from evolvent.settings import Settings
from evolvent.wire import NANOSECONDS, Code, Wire
from evolvent_schemas import RunStarted, filter_for, subjects
from evolvent_schemas.catalog import woken

ROLES = ("conductor", "researcher", "engineer", "analyzer", "cognition")
OPEN_RUNS = "open-runs"
"""Consumer that has one message for each open run: a conductor holds it until the run has finished.

What it has pending and unacknowledged is therefore the number of open runs, which is what scales roles to zero.
"""
PULLED_BY = {**dict(zip(ROLES, ROLES, strict=True)), OPEN_RUNS: "conductor"}
"""The durable consumers of the log, each with the one role that pulls from it."""
LARGEST_FACT = 512 * 1024
"""Bytes; what is larger travels as an artifact."""
SHARED_AGE = 30 * 86400.0
"""Seconds after which a shared value that nobody changed is forgotten: far longer than a round is open."""
PROGRESS_STREAM = "PROGRESS"
PROGRESS_AGE = 3600.0
"""Seconds; whoever watches a run wants to know how it goes, not how it went."""
RESULT_STREAM = "RESULTS"
RESULT_AGE = 7 * 86400.0
"""Seconds that an engineer may be away before what a pod measured is forgotten and has to be measured again."""

_DEFAULTS = {"max_age": 0, "num_replicas": 1, "max_bytes": -1, "max_msg_size": -1, "deny_delete": False}


def streams(settings: Settings) -> list[dict[str, Any]]:
    """Describe the streams. The log itself, artifacts and dead letters refuse rather than forget.

    What replicas share for the moment keeps only the newest value of a subject, and that for `SHARED_AGE`.
    """
    kept = {
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": settings.replicas,
        "deny_delete": True,
        "allow_direct": True,
        "duplicate_window": 120 * NANOSECONDS,
        "max_age": 0,
    }
    return [
        {
            **kept,
            "name": log.STREAM,
            "subjects": [subjects.ALL_FACTS],
            "max_bytes": settings.log_max_bytes,
            "max_msg_size": LARGEST_FACT,
        },
        {**kept, "name": artifacts.STREAM, "subjects": [subjects.ALL_BLOBS], "max_bytes": -1, "max_msg_size": -1},
        {**kept, "name": log.DEAD_STREAM, "subjects": [subjects.ALL_DEAD], "max_bytes": -1, "max_msg_size": -1},
        {
            **kept,
            "name": shared.STREAM,
            "subjects": [subjects.ALL_LIMITS, subjects.ALL_PURSES],
            "max_bytes": -1,
            "max_msg_size": LARGEST_FACT,
            "max_msgs_per_subject": 1,
            "max_age": int(SHARED_AGE * NANOSECONDS),
            "deny_delete": False,
        },
        {**kept, **_passing(PROGRESS_AGE), "name": PROGRESS_STREAM, "subjects": [subjects.ALL_PROGRESS]},
        {**kept, **_passing(RESULT_AGE), "name": RESULT_STREAM, "subjects": [subjects.ALL_RESULTS]},
    ]


def _passing(seconds: float) -> dict[str, Any]:
    """Describe a stream that forgets: its oldest messages, by age, and a subject's oldest when it is flooded."""
    return {
        "max_age": int(seconds * NANOSECONDS),
        "discard": "old",
        "deny_delete": False,
        "max_msgs_per_subject": 1000,
        "max_bytes": -1,
        "max_msg_size": LARGEST_FACT,
    }


def consumer(name: str, settings: Settings) -> dict[str, Any]:
    """Describe a durable consumer. Deliveries are counted by the service, so the server sets no limit."""
    return {
        "durable_name": name,
        "name": name,
        "ack_policy": "explicit",
        "ack_wait": int(settings.ack_wait * NANOSECONDS),
        "max_deliver": -1,
        "max_ack_pending": -1 if name == OPEN_RUNS else 1024,
        "deliver_policy": "all",
        "filter_subjects": sorted(filter_for(cls) for cls in ((RunStarted,) if name == OPEN_RUNS else woken(name))),
        "num_replicas": settings.replicas,
    }


async def provision(wire: Wire, settings: Settings) -> list[str]:
    """Bring every stream and consumer to its description and say what was changed.

    Only limits and waiting times are ever altered; stored messages are not.
    """
    changes = []
    for stream in streams(settings):
        changes += await _bring(wire, "STREAM", stream["name"], stream, Code.STREAM_NOT_FOUND)
    for name in PULLED_BY:
        changes += await _bring_consumer(wire, name, consumer(name, settings))
    return changes


async def drift(wire: Wire, settings: Settings) -> list[str]:
    """Say what provisioning would change."""
    found = []
    for stream in streams(settings):
        found += await _drift(wire, f"STREAM.INFO.{stream['name']}", f"stream {stream['name']}", stream)
    for name in PULLED_BY:
        wanted = consumer(name, settings)
        found += await _drift(wire, f"CONSUMER.INFO.{log.STREAM}.{name}", f"consumer {name}", wanted)
    return found


async def _drift(wire: Wire, subject: str, name: str, wanted: dict[str, Any]) -> list[str]:
    try:
        config = (await wire.api(subject))["config"]
    except Rejected as error:
        if error.code in {Code.STREAM_NOT_FOUND, Code.CONSUMER_NOT_FOUND}:
            return [f"{name} is missing"]
        raise
    return [f"{name}: {key} is {_plain(config, key)!r}, not {value!r}" for key, value in wanted.items()
            if _plain(config, key) != value]  # fmt: skip


def _plain(config: dict[str, Any], key: str) -> Any:
    """Read a setting as it was asked for: the server leaves defaults out and keeps a single filter apart."""
    if key == "filter_subjects":
        return sorted(config.get(key) or [config.get("filter_subject", "")])
    return config.get(key, _DEFAULTS.get(key))


async def _bring(wire: Wire, noun: str, name: str, wanted: dict[str, Any], missing: int) -> list[str]:
    try:
        current = (await wire.api(f"{noun}.INFO.{name}"))["config"]
    except Rejected as error:
        if error.code not in {missing, Code.NO_RESPONDERS}:
            raise
        await wire.api(f"{noun}.CREATE.{name}", wanted)
        return [f"{noun.lower()} {name} created"]
    if all(_plain(current, key) == value for key, value in wanted.items()):
        return []
    await wire.api(f"{noun}.UPDATE.{name}", {**current, **wanted})
    return [f"{noun.lower()} {name} updated"]


async def _bring_consumer(wire: Wire, name: str, wanted: dict[str, Any]) -> list[str]:
    found = await _drift(wire, f"CONSUMER.INFO.{log.STREAM}.{name}", f"consumer {name}", wanted)
    if found:
        await wire.api(
            f"CONSUMER.DURABLE.CREATE.{log.STREAM}.{name}", {"stream_name": log.STREAM, "config": wanted, "action": ""}
        )
    return [each.replace("is missing", "created") for each in found]
