"""Keep the services' logs as data, so that a test can ask what was said."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog


@pytest.fixture(autouse=True)
def said() -> Iterator[list[MutableMapping[str, Any]]]:
    """Every log line of the test."""
    with structlog.testing.capture_logs() as lines:
        yield lines
