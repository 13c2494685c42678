"""The engineer."""
