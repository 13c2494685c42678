"""Takes the number as it comes."""


def evaluate(candidate, settings, seed):
    return {"value": float(candidate.call("value"))}
