"""pixel-orch on your machine: plans, rents, watches, recovers, ends and reports. Never imports torch."""
