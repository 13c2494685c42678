"""Evolvent: event-sourced autonomous research over NATS JetStream."""
