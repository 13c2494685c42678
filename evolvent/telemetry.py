"""Structured service logs: JSON lines with the run, round and candidate they are about."""

import logging
import sys
from pathlib import Path
from typing import Any, TextIO

import structlog


def _configure(stream: TextIO) -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),  # undoes `only_errors`
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=_plain),
        ],
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def _plain(value: Any) -> str:
    return str(value)


def to_stderr() -> None:
    """Write the logs of this process to standard error."""
    _configure(sys.stderr)


def only_errors() -> None:
    """Keep the terminal for the command; what goes wrong for good is told on standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def to_file(path: Path) -> None:
    """Append the logs of this process to a file and leave the terminal to the command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _configure(path.open("a", buffering=1))
