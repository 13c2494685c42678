"""Run one replica of the conductor: `python -m evolvent_conductor`."""

from evolvent.serve import main

main("conductor")
