"""Callbacks for Hugging Face's Trainer and for Lightning that save when a run is stopped or its machine taken back.

On an instance a program finds them under the same name, although pixel-orch is not installed there.
"""

from __future__ import annotations

from infra.instance.program.callbacks import hugging_face, lightning

__all__ = ["hugging_face", "lightning"]
