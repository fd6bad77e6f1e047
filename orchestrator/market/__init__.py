"""What machines there are, what they cost, how fast they are, and what a run may still spend; pure, no I/O."""
