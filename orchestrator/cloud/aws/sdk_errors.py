"""What the errors of boto3 mean that are no answer of AWS: credentials, settings of this machine, the network.

botocore has one class for each, and lets through whatever a credential provider raises: the JSONDecodeError of a helper
that prints no JSON, the FileNotFoundError of one that is not installed, the EOFError of a prompt without a terminal.
Each becomes one line that names the remedy. Providers: https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from pathlib import Path
from traceback import walk_tb

from boto3.exceptions import RetriesExceededError
from botocore import exceptions as sdk

from orchestrator.errors import AccessError, CloudError, CredentialsError

MOST_TEXT = 300  # characters of a foreign error; a helper's standard error can be pages
NO_CREDENTIALS = "run `aws configure` (or set AWS_PROFILE), or use --cloud local, which needs no account"
LOG_IN = "log in again: aws sso login, or aws login, with --profile NAME for a named profile"
MEND_CONFIG = "mend ~/.aws/config (or the file in AWS_CONFIG_FILE) and the AWS_* variables, or give another --profile"
MEND_HELPER = "run the command of credential_process in ~/.aws/config by hand, mend it, or give another --profile"
MFA = (
    "get credentials with the code in a terminal first: "
    'eval "$(aws configure export-credentials --profile NAME --format env)", then run again without --profile'
)
IDENTITY = "check the credentials: aws sts get-caller-identity"
NETWORK = "check the network and try again"
REPORT = "check the names that were given (bucket, region, instance); if they are right, please report it"

BAD_HEADER = "Invalid header value"  # of http.client: a key or a token is sent in a header, and the text quotes it
UNSENDABLE = "a line break or another character that no request can carry"
MEND_KEYS = "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN anew, or mend ~/.aws/credentials"
_USER_INFO = re.compile(r"//[^/\s]*@")  # of a URL: name and password

PROVIDER_MODULES = ("credentials", "tokens", "utils", "configloader", "configprovider", "session")
"""The modules of botocore in which credentials and settings are read; an error from there is one of this machine."""


class HelperError(Exception):
    """A `credential_process` helper did not give credentials; the text names the helper."""


class PromptRefusedError(Exception):
    """A profile asks for an MFA code, and nobody is there to type it."""


NETWORK_ERRORS: tuple[type[BaseException], ...] = (
    sdk.HTTPClientError,
    sdk.ConnectionError,
    sdk.IncompleteReadError,
    RetriesExceededError,
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    ssl.SSLError,
)
LOG_IN_ERRORS = (sdk.SSOError, sdk.LoginError, sdk.TokenRetrievalError, sdk.NoAuthTokenError)
CREDENTIAL_ERRORS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.UnknownCredentialError,
    sdk.UnknownTokenProviderError,
    sdk.MetadataRetrievalError,
)
SETTING_ERRORS = (
    sdk.ProfileNotFound,
    sdk.ConfigParseError,
    sdk.ConfigNotFound,
    sdk.InvalidConfigError,
    sdk.BaseEndpointResolverError,
    sdk.UnknownRegionError,
    sdk.InvalidRegionError,
    sdk.ServiceNotInRegionError,
    sdk.InvalidIMDSEndpointError,
    sdk.InvalidIMDSEndpointModeError,
    sdk.InvalidRetryConfigurationError,
    sdk.InvalidS3UsEast1RegionalEndpointConfigError,
    sdk.InvalidSTSRegionalEndpointsConfigError,
    sdk.InvalidS3AddressingStyleError,
    sdk.UnsupportedS3ConfigurationError,
    sdk.UnsupportedS3AccesspointConfigurationError,
    sdk.UnsupportedS3ControlConfigurationError,
    sdk.InvalidEndpointDiscoveryConfigurationError,
    sdk.InvalidProxiesConfigError,
    sdk.InvalidEndpointConfigurationError,
    sdk.EndpointProviderError,
    sdk.UnknownSignatureVersionError,
    sdk.UnsupportedSignatureVersionError,
    sdk.DataNotFoundError,
    sdk.ApiVersionNotFoundError,
    *(getattr(sdk, name) for name in ("InvalidDefaultsMode", "InvalidChecksumConfigError") if hasattr(sdk, name)),
)


def translate_sdk(error: Exception, where: str) -> CloudError:
    """Return the error for one of boto3's that is no answer of AWS.

    Args:
        error: what was raised.
        where: the call, for a person.
    """
    said, code = one_line(error), type(error).__name__
    words = _about_credentials(error, said)
    if words:
        return CredentialsError(words, code="NoCredentials")
    if isinstance(error, sdk.NoRegionError):
        return AccessError("no AWS region is set; give --region, for example --region us-east-1", code=code)
    if isinstance(error, SETTING_ERRORS) or "invalid endpoint" in said.lower():
        return CredentialsError(f"the AWS settings of this machine cannot be used ({said}); {MEND_CONFIG}", code=code)
    if isinstance(error, NETWORK_ERRORS):
        return _off_line(error, said, where)
    is_foreign = not isinstance(error, sdk.BotoCoreError) and (
        isinstance(error, (ValueError, LookupError, OSError)) or is_raised_by_provider(error)
    )
    if is_foreign:  # a provider let it through, or an answer made no sense
        return CredentialsError(
            f"no usable AWS credentials: what gives them failed ({code}: {said}); {IDENTITY}, and {MEND_CONFIG}",
            code="NoCredentials",
        )
    return CloudError(f"{where or 'AWS'}: {said if said != code else ''} ({code}); {REPORT}", code=code)


def _about_credentials(error: Exception, said: str) -> str:
    """Return the line about credentials that are missing or refused; "" for another error."""
    if isinstance(error, (sdk.RefreshWithMFAUnsupportedError, PromptRefusedError, EOFError)):
        return f"the profile asks for an MFA code and there is no terminal to ask; {MFA}"
    if isinstance(error, sdk.MissingDependencyException):
        return f"no usable AWS credentials ({said}); install what it names, or give another --profile"
    if isinstance(error, LOG_IN_ERRORS) or ("sso" in said.lower() and isinstance(error, sdk.InvalidConfigError)):
        return f"no usable AWS credentials ({said}); {LOG_IN}, or {MEND_CONFIG}"
    if isinstance(error, (HelperError, subprocess.SubprocessError)) or _is_of_helper(error):
        return f"no usable AWS credentials ({said}); {MEND_HELPER}"
    if UNSENDABLE in said:
        return f"no usable AWS credentials ({said}); {MEND_KEYS}"
    return f"no usable AWS credentials ({said}); {NO_CREDENTIALS}" if isinstance(error, CREDENTIAL_ERRORS) else ""


def _off_line(error: BaseException, said: str, where: str) -> CloudError:
    """Return the error for a request without an answer; its code says that AWS may have served it."""
    code = type(error).__name__ if isinstance(error, sdk.BotoCoreError) else "ConnectionError"
    remedy = NETWORK
    if isinstance(error, sdk.ProxyConnectionError):
        remedy = "check the proxy (HTTPS_PROXY, NO_PROXY) and the network, and try again"
    elif isinstance(error, (sdk.SSLError, ssl.SSLError)):
        remedy = f"check this machine's clock and its certificates (AWS_CA_BUNDLE); {NETWORK}"
    return CloudError(f"{where or 'AWS'}: {said}; {remedy}", code=code)


def is_raised_by_provider(error: BaseException) -> bool:
    """Return whether the error comes from where botocore reads credentials and settings."""
    files = (Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__))
    return any(file.parent.name == "botocore" and file.stem in PROVIDER_MODULES for file in files)


def _is_of_helper(error: Exception) -> bool:
    """Return whether a helper ended with an error, printed no JSON, or could not be started."""
    if isinstance(error, sdk.CredentialRetrievalError):
        return "custom-process" in str(error)
    return isinstance(error, json.JSONDecodeError)


def _without_secrets(text: str) -> str:
    """Return an error's text without the session token and the proxy's password that some errors of botocore quote."""
    if BAD_HEADER in text:
        return f"a key or a token holds {UNSENDABLE}"
    return _USER_INFO.sub("//***@", text)


def one_line(error: BaseException) -> str:
    """Return the error's text as one line of printable characters, its type where it has no text."""
    text = "".join(letter if letter.isprintable() else " " for letter in _without_secrets(str(error)))
    text = " ".join(text.split()).rstrip(".")
    return (text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "...") or type(error).__name__
