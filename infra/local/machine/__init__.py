"""The machine of one embedded instance: its home folder, SSH server, instance metadata and processes."""
