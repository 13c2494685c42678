"""What can go wrong between a client and the API server, on demand."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["status", "slow", "lost_response", "drop_watch"]


@dataclass
class Fault:
    """One fault, armed for so many matching requests."""

    kind: Kind
    method: str = "*"
    path: str = ".*"
    """Regular expression over path and query."""
    times: int = 1
    code: int = 500
    retry_after: int | None = None
    """Seconds in the Retry-After header of a `status` fault."""
    seconds: float = 0.0
    """Real delay of a `slow` fault; age at which `drop_watch` cuts the stream."""

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("*", method) and re.search(self.path, path) is not None


class Faults:
    """The armed faults, in the order in which they were armed."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> Fault:
        self._armed.append(fault)
        return fault

    def hits(self, method: str, path: str) -> Iterator[Fault]:
        """Faults that strike this request; each strike uses one of its times."""
        for fault in self._armed:
            if fault.matches(method, path):
                fault.times -= 1
                yield fault
