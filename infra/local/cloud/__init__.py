"""The instances that run, and what goes wrong with them."""
