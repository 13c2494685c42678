"""Refusals as the API server words them: the Status object and its HTTP code."""

from typing import Any

import orjson

Manifest = dict[str, Any]


def clone(item: Manifest) -> Manifest:
    """A copy that may be changed; `managedFields`, which nobody changes in place, is shared because it is the bulk."""
    metadata = item.get("metadata", {})
    shared = metadata.get("managedFields")
    rest = item if shared is None else item | {"metadata": {k: v for k, v in metadata.items() if k != "managedFields"}}
    found: Manifest = orjson.loads(orjson.dumps(rest))
    if shared is not None:
        found["metadata"]["managedFields"] = shared
    return found


class ApiError(Exception):
    """A request that ends in a Status of kind Failure."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Manifest | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.headers = headers or {}

    def status(self) -> Manifest:
        """Render the body; absent parts stay absent."""
        body: Manifest = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body["message"] = self.message
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        return body | {"code": self.code}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unroutable() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, details={})


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def invalid(kind: str, group: str, name: str, causes: list[tuple[str, str, str]]) -> ApiError:
    """A 422 with `(reason, message, field)` per cause."""
    qualified = f"{kind}.{group}" if group else kind
    listed = [f"{field}: {message}" for _, message, field in causes]
    text = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    details: Manifest = {"name": name, "group": group, "kind": kind}
    details["causes"] = [{"reason": reason, "message": message, "field": field} for reason, message, field in causes]
    details = {key: value for key, value in details.items() if value}
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details=details)
