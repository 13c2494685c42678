"""Run one replica of the researcher: `python -m evolvent_researcher`."""

from evolvent.serve import main

main("researcher")
