"""The runs live in a browser: a read-only page on 127.0.0.1 that requires the token in its URL."""

from orchestrator.dashboard.state import snapshot

__all__ = ["snapshot"]
