"""What a run is: what was asked for, what happened, and where it lies on disk; knows no cloud."""
