"""The embedded cloud depends on no AWS or proxy setting of the user, and takes a key of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.stage import Stage, staged

pytestmark = pytest.mark.slow
NOWHERE = "http://127.0.0.1:9"
SETTINGS = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"), NOWHERE),
    **dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_S3"), NOWHERE),
    **dict.fromkeys(("AWS_RETRY_MODE", "AWS_DEFAULTS_MODE", "AWS_STS_REGIONAL_ENDPOINTS"), "bogus"),
    **dict.fromkeys(("AWS_MAX_ATTEMPTS", "AWS_METADATA_SERVICE_TIMEOUT"), "many"),
    **dict.fromkeys(("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"), "true"),
    **dict.fromkeys(("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"), "bogus"),
    **dict.fromkeys(("AWS_CA_BUNDLE", "AWS_DATA_PATH"), "/nonexistent"),
    **dict.fromkeys(("AWS_DEFAULT_REGION", "AWS_REGION"), "nowhere-9"),
    "AWS_PROFILE": "nosuch",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SESSION_TOKEN": "y",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": "::::",
}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage whose user has every setting wrong, and a configuration file with an error."""
    for found in staged(tmp_path):
        (tmp_path / ".aws").mkdir()
        (tmp_path / ".aws" / "config").write_text("[[[ broken\n")
        found.env.update(SETTINGS, HOME=str(tmp_path))
        yield found


def test_the_plan_and_the_run_need_none_of_them(stage: Stage) -> None:
    words = stage.launch_words("3", "0.05")
    code, said = stage.run(*words[:1], "--dry-run", *words[1:])
    assert code == 0, said
    assert "Then: sync" in said
    code, said = stage.run(*words)
    assert code == 0, said
    assert "SUCCEEDED" in said


def test_a_bucket_of_the_embedded_cloud_needs_none_of_them(stage: Stage) -> None:
    code, said = stage.run("setup", "--cloud", "local")
    assert code == 0, said
    bucket = next(line.split()[1] for line in said.splitlines() if line.startswith("bucket "))
    code, said = stage.run(*stage.launch_words("3", "0.05", flags=("--bucket", bucket)))
    assert code == 0, said
    assert "FAILED" not in said


@pytest.mark.parametrize("form", [s.PrivateFormat.TraditionalOpenSSL, s.PrivateFormat.PKCS8], ids=str)
def test_a_key_of_openssl_opens_the_machine(stage: Stage, form: Any) -> None:
    key = rsa.generate_private_key(65537, 2048)
    path = stage.home.parent / "k.pem"
    path.write_bytes(key.private_bytes(s.Encoding.PEM, form, s.NoEncryption()))
    code, said = stage.run(*stage.launch_words("3", "0.05", flags=("--key", str(path))))
    assert code == 0, said


def test_aws_itself_is_told_apart_by_one_line(stage: Stage) -> None:
    code, said = stage.run("launch", "--instance", "g4dn.xlarge", "--spot", "--region", "us-east-1", "--dry-run")
    assert code == 2
    assert said.count("\n") == 1
    assert "config" in said
