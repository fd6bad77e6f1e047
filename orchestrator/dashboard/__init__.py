"""The runs live in a browser: read-only pages on 127.0.0.1 that require the token in their URL."""

from orchestrator.dashboard.state import snapshot

__all__ = ["snapshot"]
