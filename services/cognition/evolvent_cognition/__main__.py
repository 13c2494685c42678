"""Run one replica of the cognition: `python -m evolvent_cognition`."""

from evolvent.serve import main

main("cognition")
