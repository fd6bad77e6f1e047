"""The outputs of a user's program on the machine: found, kept as states of one moment, sent and restored."""
