"""The user-data document, as cloud-init reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.local.machine.cloud_config import CloudConfig
from orchestrator.host.shell import make_key_pair
from orchestrator.plan.requests import user_data

MOST_BYTES = 16 << 10  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html


@pytest.fixture
def document() -> str:
    """Give the document of an instance, with real keys."""
    private, public = make_key_pair("host")
    return user_data(private, public, make_key_pair("user")[1], 30, 600)


def test_it_is_what_ec2_takes_and_the_embedded_cloud_reads(document: str) -> None:
    assert len(document.encode()) < MOST_BYTES
    first, _, rest = document.partition("\n")
    assert first == "#cloud-config"
    parsed = CloudConfig.parse(document.encode())
    assert parsed.host_key == json.loads(rest)["ssh_keys"]["ed25519_private"]
    assert len(parsed.boot_commands) == 1


@pytest.mark.slow
def test_it_passes_cloud_inits_own_schema(document: str, tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("there is no cloud-init: apt-get install cloud-init")
    path = tmp_path / "user-data"
    path.write_text(document)
    command = ["cloud-init", "schema", "--config-file", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(document.replace('"bootcmd": [[', '"bootcmd": [7, ['))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0, "a document that is wrong is found to be wrong"
