"""What a run stands on: the bootstrap and agent that go to the instance, and the embedded cloud."""
