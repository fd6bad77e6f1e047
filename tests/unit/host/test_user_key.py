"""Keys of the user: every form that EC2, openssl and ssh-keygen write is taken, and paramiko gets the same key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from orchestrator.errors import SpecError
from orchestrator.host.shell import load_key
from orchestrator.host.user_key import public_half

RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "rsa": RSA,
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
TRADITIONAL, PKCS8, OPENSSH = s.PrivateFormat.TraditionalOpenSSL, s.PrivateFormat.PKCS8, s.PrivateFormat.OpenSSH
FORMS = [
    *(("rsa", form) for form in (TRADITIONAL, PKCS8, OPENSSH)),
    *((name, form) for name in ("p256", "p384", "p521") for form in (TRADITIONAL, PKCS8, OPENSSH)),
    *(("ed25519", form) for form in (PKCS8, OPENSSH)),
]
EC_PARAMETERS = (
    b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"  # `openssl ecparam -genkey`
)
BAG = b"Bag Attributes\n    friendlyName: key\nKey Attributes: <No Attributes>\n"  # `openssl pkcs12`


def text_of(key: Any, form: Any, password: bytes | None = None) -> bytes:
    hidden = s.BestAvailableEncryption(password) if password else s.NoEncryption()
    text: bytes = key.private_bytes(s.Encoding.PEM, form, hidden)
    return text


def public_of(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    return text.decode()


@pytest.mark.parametrize(("name", "form"), FORMS)
@pytest.mark.parametrize("change", ["none", "crlf", "no end of line", "bag", "bom"])
def test_every_form_is_taken_and_paramiko_has_the_same_key(tmp_path: Path, name: str, form: Any, change: str) -> None:
    content = text_of(KEYS[name], form)
    content = {
        "none": content,
        "crlf": content.replace(b"\n", b"\r\n"),
        "no end of line": content.rstrip(),
        "bag": BAG + content,
        "bom": b"\xef\xbb\xbf" + content,
    }[change]
    path = tmp_path / "k.pem"
    path.write_bytes(content)
    assert public_half(path) == f"{public_of(KEYS[name])} k.pem"
    loaded = load_key(path)
    assert f"{loaded.get_name()} {loaded.get_base64()}" == public_of(KEYS[name])
    assert loaded.can_sign()


def test_a_curve_that_is_named_before_its_key_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    path.write_bytes(EC_PARAMETERS + text_of(KEYS["p256"], TRADITIONAL))
    assert public_half(path).startswith(public_of(KEYS["p256"]))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("k", text_of(RSA, TRADITIONAL, b"secret"), "passphrase.*ssh-keygen -p"),
        ("k", text_of(RSA, PKCS8, b"secret"), "passphrase.*ssh-keygen -p"),
        ("k", text_of(RSA, OPENSSH, b"secret"), "passphrase.*ssh-keygen -p"),
        ("k", text_of(KEYS["ed25519"], OPENSSH, b"secret"), "passphrase.*ssh-keygen -p"),
        ("k.pub", public_of(RSA).encode(), "public key; give the private one"),
        ("k", public_of(KEYS["p256"]).encode(), "public key; give the private one"),
        (
            "k.pem",
            RSA.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo),
            "public key; give the private one",
        ),
        ("k", RSA.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.PKCS1), "public key"),
        ("k.ppk", b"PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\n", "PuTTY key; convert it: puttygen .*k.ppk -O"),
        ("k", b"", "not a private key"),
        ("k", b"hello", "not a private key"),
        ("k", bytes(range(256)) * 1000, "not a private key"),
        ("k", text_of(RSA, TRADITIONAL)[:300], "not a private key|damaged"),
        ("k", b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "damaged"),
        ("k", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
        ("k", text_of(ed448.Ed448PrivateKey.generate(), PKCS8), "kind"),
        ("k", text_of(ec.generate_private_key(ec.SECP256K1()), PKCS8), "kind secp256k1"),
        ("k", text_of(dsa.generate_private_key(2048), PKCS8), "kind"),
        ("k", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate"),
        ("k", RSA.private_bytes(s.Encoding.DER, PKCS8, s.NoEncryption()), "not a private key"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_says_what_to_do(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says) as caught:
        public_half(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--key: ")
    assert ";" in str(caught.value)


def test_a_key_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SpecError, match="cannot read"):
            public_half(path)


def test_the_public_half_names_the_private_key_beside_it(tmp_path: Path) -> None:
    (tmp_path / "id").write_bytes(text_of(RSA, OPENSSH))
    (tmp_path / "id.pub").write_text(public_of(RSA))
    with pytest.raises(SpecError, match=f"for example {tmp_path / 'id'}$"):
        public_half(tmp_path / "id.pub")


def test_a_name_of_a_file_adds_no_line_to_the_authorized_keys(tmp_path: Path) -> None:
    path = tmp_path / "k\nssh-rsa AAAA x"
    path.write_bytes(text_of(RSA, OPENSSH))
    assert public_half(path).count("\n") == 0
    assert public_half(path).count(" ") == 2
