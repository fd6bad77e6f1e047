"""The HTTP API of the embedded cloud: AWS's operations, by its own code or by moto, and control routes for tests."""
