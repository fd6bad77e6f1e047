"""Leads one run to its end, and many at once."""
