"""The CloudFormation template that `pixel-orch setup` deploys to an AWS account, and the IAM policies."""
