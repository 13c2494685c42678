"""The published OpenAPI schema of the recorded server: decoding, and how lists merge."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from tests.kubernetes.fake.resources import Resource
from tests.kubernetes.fake.status import bad_request

Schema = dict[str, Any]
_FILE = "kubernetes-json-schema/v1.36.0-local-strict/_definitions.json"
_GO = {str: "string", bool: "bool", int: "number", float: "number", dict: "object", list: "array"}
_JSON = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


@cache
def _definitions() -> dict[str, Schema]:
    found: dict[str, Schema] = json.loads((files("kubernetes_validate") / _FILE).read_text())["$defs"]
    return found


@cache
def _named(name: str) -> Schema:
    return _definitions()[name] | {"go": name.rsplit(".", 1)[-1]}


def of(resource: Resource) -> Schema:
    return _named(resource.definition)


def resolve(schema: Schema) -> Schema:
    """Follow a reference, keeping what the referring field says about merging."""
    if "$ref" not in schema:
        return schema
    return _named(schema["$ref"].rsplit("/", 1)[-1])


def child(schema: Schema, key: str) -> Schema:
    """The schema of a field; of any key in a map; empty when nothing is known."""
    if key in schema.get("properties", {}):
        return resolve(schema["properties"][key])
    more = schema.get("additionalProperties")
    return resolve(more) if isinstance(more, dict) else {}


def items(schema: Schema) -> Schema:
    return resolve(schema.get("items", {}))


def merge_key(schema: Schema) -> str | None:
    """The key by which strategic merge joins a list; none for lists that are replaced."""
    return schema.get("x-kubernetes-patch-merge-key") if _strategy(schema) else None


def _strategy(schema: Schema) -> bool:
    return "merge" in schema.get("x-kubernetes-patch-strategy", "").split(",")


def check(resource: Resource, value: Any) -> list[str]:
    """Decode as the server does and return the unknown fields.

    Raises:
        ApiError: 400, a field has the wrong type.
    """
    schema = of(resource)
    for message in _wrong_types(schema, value, "", resource.kind):
        version = resource.version
        raise bad_request(f'{resource.kind} in version "{version}" cannot be handled as a {resource.kind}: {message}')
    return list(_unknown(schema, value, ""))


def pruned(resource: Resource, value: Any) -> Any:
    """The same without unknown fields, which the server drops."""
    return _pruned(of(resource), value)


def _pruned(schema: Schema, value: Any) -> Any:
    if isinstance(value, list):
        return [_pruned(items(schema), item) for item in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties")
    return {key: _pruned(child(schema, key), item) for key, item in value.items() if known is None or key in known}


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unknown(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(items(schema), item, f"{path}[{index}]")
    elif isinstance(value, dict):
        known = schema.get("properties")
        for key, item in value.items():
            if known is not None and key not in known:
                yield _join(path, key)
            else:
                yield from _unknown(child(schema, key), item, _join(path, key))


def _wrong_types(schema: Schema, value: Any, path: str, owner: str) -> Iterator[str]:
    allowed = schema.get("type")
    if allowed is not None and value is not None and not _fits(value, allowed):
        kind = schema.get("format") or schema.get("go") or _GO_OF[_first(allowed)]
        yield f"json: cannot unmarshal {_GO[type(value)]} into Go struct field {owner}.{path} of type {kind}"
    elif isinstance(value, list):
        for item in value:
            yield from _wrong_types(items(schema), item, path, owner)
    elif isinstance(value, dict):
        inner = schema.get("go", owner)
        for key, item in value.items():
            yield from _wrong_types(child(schema, key), item, _join(path, key), inner)


_GO_OF = {
    "string": "string",
    "boolean": "bool",
    "integer": "int",
    "number": "float64",
    "object": "map",
    "array": "slice",
}


def _first(allowed: str | list[str]) -> str:
    return allowed if isinstance(allowed, str) else allowed[0]


def _fits(value: Any, allowed: str | list[str]) -> bool:
    names = {allowed} if isinstance(allowed, str) else set(allowed)
    kind = _JSON[type(value)]
    return kind in names or (kind == "integer" and "number" in names)
