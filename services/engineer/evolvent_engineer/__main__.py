"""Run one replica of the engineer: `python -m evolvent_engineer`."""

from evolvent.serve import main

main("engineer")
