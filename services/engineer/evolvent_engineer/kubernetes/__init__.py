"""Experiments as Kubernetes Jobs: manifests, the client, the watch, and how ends are judged."""
