"""Private keys of the user (`--key`), in every form that EC2, ssh-keygen and openssl write.

EC2 hands out PKCS#1 (RSA) and OpenSSH (Ed25519); openssl writes PKCS#1, PKCS#8 and SEC1; ssh-keygen writes OpenSSH, or
with -m any of them. Programs for SSH read some of these only, so a key is read here and handed over in OpenSSH's form.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from orchestrator.errors import SpecError

MOST_BYTES = 1 << 16
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # SSH's nistp256, nistp384, nistp521
LEAST_RSA_BITS = 1024  # fewer are refused by OpenSSH
PUBLIC_BEGINS = (b"ssh-", b"ecdsa-", b"sk-", b"-----BEGIN PUBLIC", b"-----BEGIN RSA PUBLIC", b"---- BEGIN SSH2 PUBLIC")
FORMS = "give a private key in PEM or OpenSSH form, as EC2 and ssh-keygen write it, or leave --key out"


def public_half(path: Path) -> str:
    """Return the public key of a private key of the user, in OpenSSH's form.

    Raises:
        SpecError: it is no private key that a run can use; the message says what to do.
    """
    public = _read(path).public_key()
    text = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    name = "".join(letter if letter.isprintable() and not letter.isspace() else "_" for letter in path.name)
    return f"{text} {name}"


def openssh_form(path: Path) -> str:
    """Return a private key in OpenSSH's form, which every program for SSH reads.

    Raises:
        SpecError: as `public_half`.
    """
    text: bytes = _read(path).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return text.decode()


def _read(path: Path) -> Any:
    """Return the private key of a file."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SpecError(f"--key: cannot read {path}: {error.strerror}; {FORMS}") from None
    _refuse_what_is_no_private_key(path, content)
    body = content[content.index(b"-----BEGIN") :].replace(b"\r\n", b"\n").strip() + b"\n"
    is_openssh = body.startswith(b"-----BEGIN OPENSSH PRIVATE KEY")
    load: Any = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(body, password=None)
    except TypeError:
        raise _with_passphrase(path) from None
    except UnsupportedAlgorithm as error:
        raise SpecError(f"--key: {path} is of a kind that cannot be used ({error}); {FORMS}") from None
    except ValueError as error:
        if "sk-" in str(error):
            raise SpecError(f"--key: {path} is on a security key, which a run in the background cannot use") from None
        raise SpecError(f"--key: {path} is damaged, or no private key that is known; {FORMS}") from None
    _check_kind(path, key)
    return key


def _with_passphrase(path: Path) -> SpecError:
    return SpecError(
        f"--key: {path} has a passphrase, which a run in the background cannot ask for; give a copy without one "
        f"(cp {shlex.quote(str(path))} NEW; ssh-keygen -p -N '' -f NEW), or leave --key out"
    )


def _refuse_what_is_no_private_key(path: Path, content: bytes) -> None:
    begin = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin.startswith(b"PuTTY-User-Key-File"):
        raise SpecError(
            f"--key: {path} is a PuTTY key; convert it: puttygen {shlex.quote(str(path))} -O private-openssh -o NEW"
        )
    if begin.startswith(PUBLIC_BEGINS):
        private = path.with_suffix("") if path.suffix == ".pub" else None
        hint = f", for example {private}" if private is not None and private.is_file() else ""
        raise SpecError(f"--key: {path} is a public key; give the private one{hint}")
    if b"ENCRYPTED" in content[:512] and b"-----BEGIN" in content:
        raise _with_passphrase(path)
    if b"-----BEGIN CERTIFICATE" in content and b"PRIVATE KEY" not in content:
        raise SpecError(f"--key: {path} is a certificate; {FORMS}")
    if b"-----BEGIN" not in content or b"PRIVATE KEY-----" not in content or len(content) > MOST_BYTES:
        raise SpecError(f"--key: {path} is not a private key; {FORMS}")


def _check_kind(path: Path, key: Any) -> None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < LEAST_RSA_BITS:
            raise SpecError(f"--key: {path} is an RSA key of {key.key_size} bits; SSH takes 2048 or more")
        return
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return
    kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.strip("_")
    raise SpecError(f"--key: {path} is a key of the kind {kind}, which SSH servers do not take; give RSA or Ed25519")
