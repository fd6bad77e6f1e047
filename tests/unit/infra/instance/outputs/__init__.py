"""The outputs of a user's program on the machine."""
