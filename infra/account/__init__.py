"""What `pixel-orch setup` makes in an AWS account, and who may do what there."""
