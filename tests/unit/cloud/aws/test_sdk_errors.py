"""Nothing but our own errors leaves a call to AWS: whatever boto3, a provider or a helper raises is one line."""

from __future__ import annotations

import json
import os
import ssl
import stat
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3.exceptions
import botocore.discovery  # it has subclasses of its own
import pytest
from botocore import exceptions as sdk
from botocore.exceptions import ClientError

from orchestrator.cloud.aws import AwsCloud, configured_region, ec2, session
from orchestrator.cloud.aws.errors import map_boto_errors
from orchestrator.cloud.aws.sdk_errors import HelperError
from orchestrator.errors import AccessError, CloudError, CredentialsError

assert botocore.discovery


def below(kind: type[Exception]) -> Iterator[type[Exception]]:
    """Yield all subclasses."""
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


def made(kind: type[Exception]) -> Exception:
    """Return an error of this class, with something in each field of its text."""
    if kind is sdk.WaiterError:
        return sdk.WaiterError(name="n", reason="r", last_response={})
    if issubclass(kind, boto3.exceptions.ResourceNotExistsError):
        return boto3.exceptions.ResourceNotExistsError("ec2", ["ec2"], has_low_level_client=True)
    if issubclass(kind, boto3.exceptions.UnknownAPIVersionError):
        return boto3.exceptions.UnknownAPIVersionError("ec2", "1999", "2016")
    names = [field for _, field, _, _ in string.Formatter().parse(getattr(kind, "fmt", "")) if field]
    return kind(**{name: f"some {name}" for name in names})


KINDS = sorted({sdk.BotoCoreError, *below(sdk.BotoCoreError)}, key=lambda kind: kind.__name__)
NETWORK = (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_botocore_becomes_one_line_of_ours(kind: type[Exception]) -> None:
    with pytest.raises(CloudError) as caught, map_boto_errors("us-east-1"):
        raise made(kind)
    text = str(caught.value)
    assert "\n" not in text
    assert ";" in text, "it says what to do"
    assert ("check the network" in text or "the network" in text) == issubclass(kind, NETWORK), text


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("Expecting value"),
        json.JSONDecodeError("Expecting value", "Please log in", 0),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        FileNotFoundError(2, "No such file or directory", "/usr/local/bin/helper"),
        PermissionError(13, "Permission denied", "/usr/local/bin/helper"),
        OSError(8, "Exec format error"),
        OSError(28, "No space left on device"),
        EOFError("EOF when reading a line"),
        KeyError("AccessKeyId"),
        IndexError("list index out of range"),
        RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
        AttributeError("'list' object has no attribute 'get'"),
        TypeError("string indices must be integers"),
        RecursionError("maximum recursion depth exceeded"),
        AssertionError(),
        subprocess.TimeoutExpired(["helper"], 60),
        HelperError("the helper h printed no JSON object"),
        boto3.exceptions.S3UploadFailedError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_provider_lets_through_becomes_one_line_and_blames_no_network(raised: Exception) -> None:
    with pytest.raises(CloudError) as caught, map_boto_errors("us-east-1"):
        raise raised
    assert "\n" not in str(caught.value)
    assert "network" not in str(caught.value)


@pytest.mark.parametrize("raised", [ConnectionResetError(104, "reset"), TimeoutError("timed out"), ssl.SSLError("bad")])
def test_a_broken_connection_blames_the_network(raised: Exception) -> None:
    with pytest.raises(CloudError, match="check the network") as caught, map_boto_errors("us-east-1"):
        raise raised
    assert caught.value.code == "ConnectionError", "AWS may have served it"


def test_our_own_errors_and_a_full_disk_of_ours_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="as it was"), map_boto_errors("us-east-1"):
        raise AccessError("as it was")
    with pytest.raises(OSError, match="No space"), map_boto_errors("s3", writes_to=tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(CredentialsError), map_boto_errors("s3", writes_to=tmp_path):
        raise FileNotFoundError(2, "No such file", "/usr/bin/helper")


def test_control_characters_and_pages_of_a_helper_do_not_reach_the_terminal() -> None:
    error = sdk.CredentialRetrievalError(provider="custom-process", error_msg="\x1b[2J no\n" + "x" * 10_000)
    with pytest.raises(CredentialsError) as caught, map_boto_errors():
        raise error
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


# -- with botocore's own providers behind the call


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's ~/.aws/config, still empty; no other setting of AWS is there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config"
    path.write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    session._hung.clear()
    session._prompted.clear()
    session._assumed_roles.clear()
    return path


GOOD = json.dumps({"Version": 1, "AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "x"})


def helper(config: Path, script: str) -> Path:
    """Write a credential_process helper, and the default profile that names it."""
    path = config.parent / "helper"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    config.write_text(f"[default]\nregion = us-east-1\ncredential_process = {path} --secret hush\n")
    return path


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo Please log in to the VPN first", "printed no JSON object"),
        ("true", "printed no JSON object"),
        ("echo '[1]'", "printed no JSON object"),
        ("printf '\\377'", "printed no JSON object"),
        ("echo 'who are you' >&2; exit 3", "who are you"),
        ("printf '\\377' >&2; exit 3", "custom-process"),
        ("echo '{}'", "custom-process"),
        ("echo '{\"Version\": 1}'", "custom-process"),
        (f'echo \'{GOOD[:-1]}, "Expiration": "soon"}}\'', "soon"),
        (f'echo \'{GOOD[:-1]}, "Expiration": "2020-01-01T00:00:00Z"}}\'', "still expired"),
    ],
)
def test_a_helper_that_is_unwell_is_named_in_one_line(config: Path, script: str, says: str) -> None:
    helper(config, script)
    with pytest.raises(CredentialsError, match=says) as caught:
        AwsCloud(("us-east-1",)).instances()
    text = str(caught.value)
    assert "config" in text, "the remedy"
    assert "\n" not in text
    assert "network" not in text
    assert "hush" not in text, "arguments of a helper may be secrets"


def test_a_helper_that_is_not_there_or_may_not_run_is_named(config: Path) -> None:
    path = helper(config, "true")
    path.chmod(0o600)
    with pytest.raises(CredentialsError, match=f"{path} cannot be started: Permission denied"):
        AwsCloud(("us-east-1",))
    path.unlink()
    with pytest.raises(CredentialsError, match=f"{path} cannot be started: No such file"):
        AwsCloud(("us-east-1",))


def test_a_helper_that_hangs_is_ended_and_rests_for_a_while(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HELPER_TIMEOUT_S", 0.05)
    helper(config, "exec sleep 60")
    with pytest.raises(CredentialsError, match="gave no answer within"):
        AwsCloud(("us-east-1",))
    helper(config, f"echo '{GOOD}'")
    with pytest.raises(CredentialsError, match="gave no answer within"):
        AwsCloud(("us-east-1",))
    session._hung.clear()
    AwsCloud(("us-east-1",))


def test_a_helper_of_the_source_profile_of_a_role_is_held_to_the_same(config: Path) -> None:
    path = helper(config, "echo no JSON")
    config.write_text(
        f"[profile base]\ncredential_process = {path}\n"
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n"
    )
    with pytest.raises(CredentialsError, match="printed no JSON object"):
        AwsCloud(("us-east-1",), profile="role")


def test_credentials_that_healed_are_read_again(config: Path) -> None:
    helper(config, f"echo '{GOOD}'")
    cloud = AwsCloud(("us-east-1",))
    first = cloud._client("sts", "us-east-1")
    with pytest.raises(CredentialsError), cloud._door("us-east-1"):
        raise CredentialsError("ExpiredToken", code="ExpiredToken")
    helper(config, f"echo '{GOOD.replace('AKIAEXAMPLE', 'AKIANEW')}'")
    second = cloud._client("sts", "us-east-1")
    assert first is not second
    assert cloud._session().get_credentials().access_key == "AKIANEW"


def test_the_keys_of_a_role_that_aws_refuses_are_not_kept(config: Path) -> None:
    helper(config, f"echo '{GOOD}'")
    cloud = AwsCloud(("us-east-1",))
    session._assumed_roles["role"] = "its keys"
    with pytest.raises(CredentialsError), cloud._door("us-east-1"):
        raise HelperError("a helper that is unwell says nothing of them")
    assert session._assumed_roles
    with pytest.raises(CredentialsError), cloud._door("us-east-1"):
        raise ClientError({"Error": {"Code": "ExpiredToken", "Message": "revoked"}}, "DescribeInstances")
    assert not session._assumed_roles


def mfa(config: Path) -> None:
    """Write a profile that asks for an MFA code."""
    config.write_text(
        "[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = x\n"
        "[profile mfa]\nregion = us-east-1\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/me\n"
    )


def test_no_code_is_asked_for_without_a_terminal(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mfa(config)
    monkeypatch.setattr(sys, "stdin", (config.parent / "config").open())
    with pytest.raises(CredentialsError, match=r"MFA code .*aws configure export-credentials") as caught:
        AwsCloud(("us-east-1",), profile="mfa").who()
    assert "network" not in str(caught.value)


def test_a_code_is_asked_for_once_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(session, "is_terminal", lambda: True)
    monkeypatch.setattr(session.getpass, "getpass", lambda prompt: [asked.append(prompt), "123456"][1])
    session._prompted.clear()
    assert session.ask_for_code("Enter MFA code for me: ") == "123456"
    with pytest.raises(session.PromptRefusedError):
        session.ask_for_code("Enter MFA code for me: ")
    assert len(asked) == 1, "in the middle of a run nobody waits at the terminal"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[profile sso]\nregion = us-east-1\nsso_session = my\nsso_account_id = 1\nsso_role_name = r\n", "sso"),
        (
            "[sso-session my]\nsso_region = us-east-1\nsso_start_url = https://x\n"
            "[profile sso]\nregion = us-east-1\nsso_session = my\nsso_account_id = 1\nsso_role_name = r\n",
            "aws sso login",
        ),
        (
            "[profile sso]\nsso_region = us-east-1\nsso_start_url = https://x\nsso_account_id = 1\nsso_role_name = r\n",
            "aws sso login",
        ),
        ("[profile sso]\nsso_start_url = https://x\nsso_account_id = 1\n", "sso"),
        ("[profile sso\n", "config"),
        ("\x00\xff[[[", "config"),
        ("", "profile"),
        ("[profile sso]\nsource_profile = none\nrole_arn = arn:aws:iam::1:role/r\n", "config"),
        ("[profile sso]\nsource_profile = sso\nrole_arn = arn:aws:iam::1:role/r\n", "config|credentials"),
        ("[profile sso]\naws_access_key_id = x\n", "aws configure"),
    ],
)
def test_a_profile_that_cannot_work_is_one_line_with_its_remedy(config: Path, text: str, says: str) -> None:
    config.write_text(text, encoding="latin-1")
    with pytest.raises(CloudError, match=says) as caught:
        AwsCloud(("us-east-1",), profile="sso").who()
    assert "network" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_RETRY_MODE": "bogus"}, "us-east-1"),
        ({"AWS_MAX_ATTEMPTS": "many"}, "us-east-1"),
        ({"AWS_MAX_ATTEMPTS": "-1"}, "us-east-1"),
        ({"AWS_ENDPOINT_URL": "not a url"}, "us-east-1"),
        ({"AWS_ENDPOINT_URL_EC2": "://"}, "us-east-1"),
        ({"AWS_DEFAULTS_MODE": "bogus"}, "us-east-1"),
        ({"AWS_CA_BUNDLE": "/nonexistent"}, "us-east-1"),
        ({"AWS_USE_FIPS_ENDPOINT": "perhaps", "AWS_ENDPOINT_URL": "nonsense"}, "us-east-1"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "::::"}, "us-east-1"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv5"}, "us-east-1"),
        ({"AWS_METADATA_SERVICE_TIMEOUT": "soon"}, "us-east-1"),
        ({"AWS_STS_REGIONAL_ENDPOINTS": "bogus"}, "us-east-1"),
        ({}, "not a region"),
        ({}, "us_east_1/../x"),
    ],
)
def test_settings_that_cannot_work_are_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], region: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ec2, "open_client", sends_nothing)
    with pytest.raises(CloudError) as caught:
        AwsCloud((region,)).who()
    assert "\n" not in str(caught.value)


def sends_nothing(opened: object, service: str, region: str, **options: object) -> object:
    """Do as `open_client`, with a client whose requests do not leave this machine."""
    client = session.open_client(opened, service, region, **{k: v for k, v in options.items() if k != "retries"})

    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": "AuthFailure", "Message": "as told"}}, "GetCallerIdentity")

    client.meta.events.register("before-send", refuse)
    return client


def test_the_region_of_a_broken_configuration(config: Path) -> None:
    config.write_text("[[[")
    with pytest.raises(CredentialsError, match="Unable to parse config file"):
        configured_region(None)


@pytest.mark.parametrize(
    "error",
    [
        sdk.HTTPClientError(error=ValueError("Invalid header value b'hunter2\\nx'")),
        ValueError("Invalid header value b'AWS4-HMAC-SHA256 Credential=hunter2\\n/20261129/us-east-1'"),
        sdk.HTTPClientError(error=ValueError("Failed to parse: http://user:hunter2@127.0.0.1:99999")),
        sdk.EndpointConnectionError(endpoint_url="https://hunter2@ec2.example/"),
        sdk.ProxyConnectionError(proxy_url="http://me:x@proxy:3128 and http://hunter2:x@other"),
        sdk.ConnectTimeoutError(endpoint_url="http://a:hunter2@[::1]:9/"),
        OSError("tunnel to //hunter2@h failed"),
    ],
)
def test_no_token_and_no_password_of_a_proxy_is_repeated(error: Exception) -> None:
    with pytest.raises(CloudError) as caught, map_boto_errors("us-east-1"):
        raise error
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
def test_a_key_with_a_line_break_is_an_error_of_the_key_and_not_of_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "B")
    monkeypatch.setenv(name, "hunter2\nx")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(CredentialsError, match="holds a line break") as caught:
        AwsCloud(["us-east-1"]).instances()
    assert "hunter2" not in str(caught.value)
    assert "network" not in str(caught.value)
