"""The version of pixel-orch."""

VERSION = "0.2.0"
