"""The AsyncAPI 3.0 document: subjects as channels, facts as messages, what each role sends and receives."""

from typing import Any

from evolvent_schemas import envelope
from evolvent_schemas.catalog import FACTS
from evolvent_schemas.documents import json_schema, meaning, summary
from evolvent_schemas.fact import Fact

Document = dict[str, Any]

_HEADERS = {
    envelope.SPECVERSION: {"type": "string", "const": "1.0", "description": "Version of CloudEvents."},
    envelope.ID: {"type": "string", "format": "uuid", "description": "uuid5 of the cause's id and the subject."},
    envelope.SOURCE: {"type": "string", "description": "`evolvent/<role>` that published it."},
    envelope.TYPE: {"type": "string", "description": "The wire type of the fact."},
    envelope.SUBJECT: {"type": "string", "description": "The fact's key, or the run where it has none."},
    envelope.TIME: {"type": "string", "format": "date-time", "description": "When it was first published (UTC)."},
    envelope.CAUSE: {"type": "string", "format": "uuid", "description": "Id of the fact that caused this one."},
    envelope.SIGNATURE: {"type": "string", "description": "Of the publisher over subject, id, cause and body."},
    envelope.TRACEPARENT: {"type": "string", "description": "W3C trace context."},
    envelope.MSG_ID: {"type": "string", "format": "uuid", "description": "Equal to ce-id; JetStream drops repeats."},
    envelope.EXPECTED_STREAM: {"type": "string", "const": "LOG", "description": "The stream that stores facts."},
    envelope.EXPECTED_SUBJECT_SEQUENCE: {
        "type": "string",
        "const": "0",
        "description": "Makes the server refuse a second fact on the subject, for ever.",
    },
}
_OPTIONAL = {envelope.SIGNATURE, envelope.TRACEPARENT}


def roles() -> list[str]:
    """List everybody who publishes or is woken, sorted."""
    named = {cls.publisher for cls in FACTS.values()} | {role for cls in FACTS.values() for role in cls.wakes}
    return sorted(named - {"*"})


def document(version: str) -> Document:
    """Build the whole document.

    Args:
        version: of the contract, for example `0.1.0`.
    """
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Evolvent",
            "version": version,
            "description": "Every fact of an autonomous research loop, one subject each, on NATS JetStream.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "localhost:4222", "protocol": "nats", "description": "The stream LOG is there."}},
        "channels": {name: _channel(name, cls) for name, cls in sorted(FACTS.items())},
        "operations": dict(sorted(op for name, cls in FACTS.items() for op in _operations(name, cls))),
        "components": {
            "messages": {name: _message(name, cls) for name, cls in sorted(FACTS.items())},
            "schemas": {"Envelope": _envelope()},
        },
    }


def _envelope() -> Document:
    """CloudEvents 1.0 attributes in NATS headers, and those that JetStream reads."""
    required = sorted(name for name in _HEADERS if name not in _OPTIONAL)
    return {"type": "object", "required": required, "properties": _HEADERS}


def _channel(name: str, cls: type[Fact]) -> Document:
    return {
        "address": ".".join(["evo.{run}", name, *(f"{{{field}}}" for field in cls.key_fields)]),
        "title": cls.__name__,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "parameters": {field: _parameter(cls, field) for field in ("run", *cls.key_fields)},
        "servers": [{"$ref": "#/servers/nats"}],
    }


def _parameter(cls: type[Fact], field: str) -> Document:
    return {
        "description": meaning(cls, field, cls.model_fields[field]),
        "location": f"$message.payload#/{field}",
    }


def _message(name: str, cls: type[Fact]) -> Document:
    return {
        "name": name,
        "title": cls.__name__,
        "summary": summary(cls),
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/Envelope"},
        "correlationId": {"description": "What caused it.", "location": f"$message.header#/{envelope.CAUSE}"},
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./json/{name}.json"},
        },
        **{key: value for key, value in json_schema(cls).items() if key.startswith("x-")},
    }


def _operations(name: str, cls: type[Fact]) -> list[tuple[str, Document]]:
    senders = roles() if cls.publisher == "*" else [cls.publisher]
    sends = [(f"{role}.send.{name}", _operation(name, cls, "send", role)) for role in senders]
    return sends + [(f"{role}.receive.{name}", _operation(name, cls, "receive", role)) for role in cls.wakes]


def _operation(name: str, cls: type[Fact], action: str, role: str) -> Document:
    verb = "publishes" if action == "send" else "is woken by"
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": f"{role} {verb} {cls.__name__}",
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        "tags": [{"name": role}],
    }
