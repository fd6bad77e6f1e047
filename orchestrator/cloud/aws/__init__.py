"""AWS, the only package that says boto3.

Its errors are translated at the sill (`errors.py`) and never get further in.
"""

from orchestrator.cloud.aws.ec2 import AwsCloud, configured_region

__all__ = ["AwsCloud", "configured_region"]
