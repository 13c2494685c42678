"""`python -m evolvent_engineer.pod fetch|evaluator|candidate`."""

import asyncio
import sys

from pydantic import ValidationError

from evolvent import telemetry
from evolvent.errors import EvolventError
from evolvent_engineer.kubernetes.manifests import CANDIDATE, EVALUATOR, FETCH, NOBODYS_FAULT
from evolvent_engineer.pod.evaluate import evaluate
from evolvent_engineer.pod.fetch import fetch
from evolvent_engineer.pod.keeper import keep
from evolvent_engineer.server import ServerError

_CONTAINERS = {FETCH: fetch, EVALUATOR: evaluate, CANDIDATE: keep}


def main() -> None:
    """Do one container's part; what neither the candidate nor the task can have caused has an exit code of its own."""
    telemetry.to_stderr()
    if sys.argv[1:2] == [] or sys.argv[1] not in _CONTAINERS:
        sys.exit(f"usage: python -m evolvent_engineer.pod {'|'.join(_CONTAINERS)}")
    try:
        asyncio.run(_CONTAINERS[sys.argv[1]]())
    except (EvolventError, ServerError, OSError, ValidationError) as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)  # noqa: T201 - the end of a container's log is its message
        sys.exit(NOBODYS_FAULT)


if __name__ == "__main__":
    main()
