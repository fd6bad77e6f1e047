"""Strict readers of the published file formats, one module for each format."""
