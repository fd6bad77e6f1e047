"""The version of pixel-orch."""

VERSION = "0.1.0"
