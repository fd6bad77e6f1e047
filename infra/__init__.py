"""Infrastructure of a run: the programs sent to the instance, the account's resources, and the embedded cloud."""
