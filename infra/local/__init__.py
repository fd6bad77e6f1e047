"""The embedded cloud: AWS's APIs and instances emulated on this machine, for `--cloud local` and for tests.

Importing this package needs the standard library only; the process that `ensure` starts imports moto and asyncssh.
"""

from infra.local.client import EmbeddedCloud, EmbeddedCloudError
from infra.local.cloud.faults import load_faults

__all__ = ["EmbeddedCloud", "EmbeddedCloudError", "load_faults"]
