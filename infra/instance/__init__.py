"""What is sent to a rented machine: the agent, the bootstrap, and what brings data and takes checkpoints."""
