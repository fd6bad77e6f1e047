"""What an embedded instance reads from its user-data."""

import json

import pytest

from infra.local.machine.cloud_config import CloudConfig


def test_json_and_yaml_say_the_same() -> None:
    asked = {"ssh_keys": {"ed25519_private": "KEY"}, "ssh_authorized_keys": ["a"], "runcmd": [["b", 1], "c"]}
    as_json = b"#cloud-config\n" + json.dumps(asked).encode()
    as_yaml = b"#cloud-config\nssh_keys: {ed25519_private: KEY}\nssh_authorized_keys: [a]\nruncmd:\n- [b, 1]\n- c\n"
    expected = CloudConfig(host_key="KEY", authorized_keys=("a",), commands=(["b", "1"], "c"))
    assert CloudConfig.parse(as_json) == CloudConfig.parse(as_yaml) == expected


@pytest.mark.parametrize(
    "text", [b"", b"#!/bin/sh\nreboot", b"#cloud-config\n[1]", b"#cloud-config\n\t: [", b"\xff\xfe"]
)
def test_what_is_no_cloud_config_is_ignored(text: bytes) -> None:
    assert CloudConfig.parse(text) == CloudConfig()
