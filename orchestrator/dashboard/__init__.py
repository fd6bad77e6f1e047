"""A local page that shows the runs as they go: read-only, on 127.0.0.1, for whoever has the token in its URL."""

from orchestrator.dashboard.state import snapshot

__all__ = ["snapshot"]
