"""Strict readers of the published formats, one module for each format."""
