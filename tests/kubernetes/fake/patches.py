"""The three ways to patch an object: merge, strategic merge, JSON patch."""

import copy
from typing import Any

from tests.kubernetes.fake import schema
from tests.kubernetes.fake.schema import Schema
from tests.kubernetes.fake.status import ApiError


def merge(current: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    base = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = merge(base.get(key), value)
    return base


def strategic(current: Any, patch: Any, kind: Schema) -> Any:
    """Merge by the schema: lists with a merge key join by it, `$patch: delete|replace` are obeyed."""
    if isinstance(patch, list):
        key = schema.merge_key(kind)
        return _join(current or [], patch, key, schema.items(kind)) if key else patch
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    base = dict(current) if isinstance(current, dict) else {}
    for name, value in patch.items():
        if value is None:
            base.pop(name, None)
        else:
            base[name] = strategic(base.get(name), value, schema.child(kind, name))
    return base


def _join(current: list[Any], patch: list[Any], key: str, kind: Schema) -> list[Any]:
    found = {item[key]: item for item in current}
    for item in patch:
        if item.get("$patch") == "delete":
            found.pop(item[key], None)
        else:
            found[item[key]] = strategic(found.get(item[key]), item, kind)
    return list(found.values())


def json_patch(current: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902.

    Raises:
        ApiError: 422, a test failed or a path does not exist.
    """
    document = copy.deepcopy(current)
    try:
        for operation in operations:
            document = _apply(document, operation)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        message = "the server rejected our request due to an error in our request"
        raise ApiError(422, "Invalid", message, details={}) from error
    return document


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _at(document: Any, parts: list[str]) -> Any:
    for part in parts:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    parts = _parts(operation["path"])
    match operation["op"]:
        case "test":
            if _at(document, parts) != operation["value"]:
                raise ValueError(operation["path"])
        case "remove":
            _remove(document, parts)
        case "add" | "replace" as op:
            if op == "replace":
                _at(document, parts)
            _put(document, parts, operation["value"], insert=op == "add")
        case "copy":
            _put(document, parts, copy.deepcopy(_at(document, _parts(operation["from"]))), insert=True)
        case "move":
            moved = _at(document, _parts(operation["from"]))
            _remove(document, _parts(operation["from"]))
            _put(document, parts, moved, insert=True)
        case other:
            raise ValueError(other)
    return document


def _remove(document: Any, parts: list[str]) -> None:
    parent = _at(document, parts[:-1])
    del parent[int(parts[-1]) if isinstance(parent, list) else parts[-1]]


def _put(document: Any, parts: list[str], value: Any, *, insert: bool) -> None:
    parent, last = _at(document, parts[:-1]), parts[-1]
    if not isinstance(parent, list):
        parent[last] = value
    elif insert:
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        parent[int(last)] = value
