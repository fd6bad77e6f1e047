"""The requests that the embedded cloud answers: those of AWS by its own code or by moto, and the controls of tests."""
