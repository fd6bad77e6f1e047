"""The embedded cloud: AWS's side of the wire on this machine, for `--cloud local` and for tests.

Importing this costs nothing beyond the standard library; moto and asyncssh live in the process that `ensure` starts.
"""

from infra.local.client import EmbeddedCloud, EmbeddedCloudError
from infra.local.cloud.faults import load_faults

__all__ = ["EmbeddedCloud", "EmbeddedCloudError", "load_faults"]
