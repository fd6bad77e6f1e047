"""What checkip answers becomes an IPv4 rule, or an error that names --ssh-cidr."""

from __future__ import annotations

import io
import urllib.request

import pytest

from orchestrator.cloud.aws import AwsCloud
from orchestrator.cloud.aws.checkip import cidr_of, public_cidr
from orchestrator.errors import CloudError


@pytest.mark.parametrize("said", [b"203.0.113.7\n", b"203.0.113.7", b"10.1.2.3, 203.0.113.7\n", b" 203.0.113.7 \r\n"])
def test_a_public_ipv4_address_is_admitted_alone(said: bytes) -> None:
    assert cidr_of(said) == "203.0.113.7/32"


@pytest.mark.parametrize(
    "said",
    [
        *(b"2001:db8::7\n", b"::ffff:203.0.113.7", b"<html>log in</html>", b"", b"\n", b"203.0.113.7/0", b"0.0.0.0"),
        *(b"10.1.2.3", b"192.168.1.1", b"100.64.0.1", b"127.0.0.1", b"169.254.1.1", b"224.0.0.1", b"255.255.255.255"),
        *(b"\xff\xfe", b"203.0.113", b"3405803783", b"203.0.113.007x", b"\x1b[2J203.0.113.7", b"1,2", b"x" * 5000),
    ],
)
def test_any_other_answer_is_an_error_that_names_the_flag(said: bytes) -> None:
    with pytest.raises(CloudError, match="--ssh-cidr") as caught:
        cidr_of(said)
    assert "network" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_no_answer_blames_the_network_and_names_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(CloudError, match=r"check the network.*--ssh-cidr"):
        public_cidr()


def test_the_cloud_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"203.0.113.7\n"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert AwsCloud(("us-east-1",)).caller_cidr() == "203.0.113.7/32"
