"""The command line: `evolvent …`."""

from evolvent.cli.app import main

__all__ = ["main"]
