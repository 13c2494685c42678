"""The cognition."""
