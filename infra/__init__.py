"""What a run stands on: what is sent to the instance, what setup makes in the account, and the embedded cloud."""
