"""What runs inside an experiment's pod: `python -m evolvent_engineer.pod fetch|evaluator|candidate`."""
