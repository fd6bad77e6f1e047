"""A rented machine: its protocol, and SSH behind it."""
