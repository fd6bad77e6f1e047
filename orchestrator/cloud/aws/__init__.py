"""AWS: the only package that imports boto3.

`errors.py` turns its errors into those of `orchestrator.errors`.
"""

from orchestrator.cloud.aws.ec2 import AwsCloud, configured_region

__all__ = ["AwsCloud", "configured_region"]
