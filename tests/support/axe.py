"""axe-core, which finds what a screen reader or a keyboard cannot use (https://github.com/dequelabs/axe-core).

It is taken from npm once in a test run, one version with a known digest. Without npm, or a network, its tests are
skipped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.browser import Page

VERSION = "4.14.1"
SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
WHY_NOT = f"npm cannot fetch axe-core {VERSION}"
SERIOUS = ("serious", "critical")


@lru_cache
def source() -> str | None:
    """Return its script, None if it cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    with TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [npm, "pack", f"axe-core@{VERSION}"], cwd=folder, check=True, capture_output=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError):
            return None
        packed = Path(folder) / f"axe-core-{VERSION}.tgz"
        assert hashlib.sha256(packed.read_bytes()).hexdigest() == SHA256, "it is another axe-core"
        with tarfile.open(packed) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member
            return member.read().decode()


def faults(page: Page) -> list[str]:
    """Return the serious faults of a page, with the first node of each."""
    script = source()
    assert script, WHY_NOT
    page.run(f"{script};0")
    found = json.loads(page.run("axe.run().then((result) => JSON.stringify(result.violations))"))
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in SERIOUS]
