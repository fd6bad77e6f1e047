"""The command line of the trainer: its flags, and what the `data` commands print."""
