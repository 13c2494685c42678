"""The contract: facts, values and subjects. pydantic only; imports nothing of ours."""
