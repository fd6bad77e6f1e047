"""What a checkpoint is worth, in nats and in pictures."""
