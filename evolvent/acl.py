"""Who may say and hear what on the bus: the permissions of each user, built from the catalogue of facts.

A role publishes the facts it owns and nothing else, and reads the whole log. Only the provisioner touches streams and
durable consumers. Where a pattern is wider than it should be, because a wildcard never stands for a part of a token,
what it must not reach is denied by name.
"""

import json
from dataclasses import dataclass

from evolvent import artifacts, log
from evolvent.provision import PULLED_BY, RESULT_STREAM, ROLES, streams
from evolvent.settings import Settings
from evolvent_schemas import FACTS, Fact, filter_for, subjects

ACCOUNT = "EVOLVENT"
"""Account that the streams live in."""
EXPERIMENT, PROVISIONER, TOOLS = "experiment", "provisioner", "tools"
ASKS_MODELS = ("researcher", "analyzer")
"""Roles whose replicas share the rate limits and purses of models."""
USERS = (*ROLES, *sorted({cls.publisher for cls in FACTS.values()} - {"*", *ROLES}), EXPERIMENT, PROVISIONER, TOOLS)
"""The roles, whoever else publishes a fact, an experiment's pod, the one that makes streams, one that only reads."""
_LIVE = {TOOLS: (subjects.ALL_FACTS, subjects.ALL_PROGRESS), "user": (subjects.ALL_PROGRESS,)}
"""What outside users may listen to as it is published: the progress of experiments, for tools facts as well."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one user may publish and subscribe to; `never` wins over `publish`."""

    publish: tuple[str, ...]
    never: tuple[str, ...]
    subscribe: tuple[str, ...]


def owned(user: str, cls: type[Fact]) -> str | None:
    """Spell the subjects on which a user may publish a fact; none if it is another's."""
    if cls.publisher == user:
        return filter_for(cls)
    if cls.publisher == "*" and user in ROLES:
        return subjects.pattern(cls.model_fields["type"].default, keyed=True).removesuffix(">") + f"{user}.>"
    return None


def permissions(user: str) -> Permissions:
    """Build what one of `USERS` may do."""
    inbox = f"_INBOX.{user}.>"
    if user == PROVISIONER:
        return Permissions(("$JS.API.INFO", "$JS.API.STREAM.>", "$JS.API.CONSUMER.>"), (), (inbox,))
    if user == EXPERIMENT:
        told = (subjects.ALL_PROGRESS, subjects.ALL_RESULTS)
        return Permissions((*told, f"$JS.API.STREAM.MSG.GET.{artifacts.STREAM}"), (), (inbox,))
    facts = [found for cls in FACTS.values() if (found := owned(user, cls)) is not None]
    subscribe = (inbox, *_LIVE.get(user, ()))
    return Permissions((*facts, *_stored(user), *_read(user)), _others(user), subscribe)


def _stored(user: str) -> list[str]:
    """List what may be stored beside facts. Artifacts are named by their content, so that nobody can replace one."""
    if user == TOOLS:
        return []
    found = [subjects.ALL_BLOBS]
    if user in ROLES:
        found += [f"dead.{user}.>"]
    for name in (name for name, role in PULLED_BY.items() if role == user):
        found += [f"$JS.API.CONSUMER.INFO.{log.STREAM}.{name}", f"$JS.ACK.{log.STREAM}.{name}.>"]
    if user == "engineer":
        found += [subjects.ALL_PROGRESS]
    if user in ASKS_MODELS:
        found += [subjects.ALL_LIMITS, subjects.ALL_PURSES]
    return found


def _read(user: str) -> list[str]:
    """List what reading takes: single messages of every stream, and tails of the log."""
    tailed = (log.STREAM, RESULT_STREAM) if user == "engineer" else (log.STREAM,)
    tails = [f"$JS.API.CONSUMER.{call}.{name}.*" for name in tailed for call in ("CREATE", "MSG.NEXT", "DELETE")]
    looks = [] if user in ROLES else [f"$JS.API.CONSUMER.INFO.{log.STREAM}.*", "$JS.API.INFO"]
    names = [stream["name"] for stream in streams(Settings())]
    single = [f"$JS.API.{call}.{name}" for name in names for call in ("STREAM.INFO", "STREAM.MSG.GET")]
    return [*single, *tails, *looks]


def _others(user: str) -> tuple[str, ...]:
    """Deny every durable consumer: none may be made or deleted, and only its own role pulls from it."""
    found = [f"$JS.API.CONSUMER.{call}.{log.STREAM}.{name}" for name in PULLED_BY for call in ("CREATE", "DELETE")]
    others = [name for name, role in PULLED_BY.items() if role != user]
    return (*found, *(f"$JS.API.CONSUMER.MSG.NEXT.{log.STREAM}.{name}" for name in others))


def variable(user: str) -> str:
    """Name the environment variable of the NATS server that holds a user's password."""
    return f"NATS_PASSWORD_{user.upper()}"


def render() -> str:
    """Write the accounts for the configuration of nats-server; passwords come from its environment."""
    users = "\n".join(_user(user) for user in USERS)
    return (
        "# Written by `evolvent deploy accounts` from the catalogue of facts.\n"
        f"accounts {{\n  {ACCOUNT} {{\n    jetstream: enabled\n    users: [\n{users}\n    ]\n  }}\n"
        "  SYS {}\n}\nsystem_account: SYS\n"
    )


def _user(user: str) -> str:
    granted = permissions(user)
    lines = [
        f"        publish: {{ allow: {_list(granted.publish)}, deny: {_list(granted.never)} }}",
        f"        subscribe: {{ allow: {_list(granted.subscribe)} }}",
    ]
    head = f"      {{\n        user: {user}\n        password: ${variable(user)}\n        permissions: {{\n"
    return head + "\n".join(f"  {line}" for line in lines) + "\n        }\n      }"


def _list(found: tuple[str, ...]) -> str:
    return json.dumps(found)
