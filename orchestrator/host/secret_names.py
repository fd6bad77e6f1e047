"""Names of files that usually hold credentials: they are not sent to a rented machine unless `--include` names them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import lru_cache

FOLDERS = (".aws", ".ssh", ".gnupg", ".kube", ".azure", ".gcloud", ".oci", ".password-store")
"""Folders of which every file is left out."""

PLACES = (".docker/config.json", ".config/gcloud", ".config/gh", ".config/hub", ".huggingface/token")
"""Paths, wherever they are in the tree; of a folder every file is left out."""

FILES = (
    ".env*",
    "*.env",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".pypirc",
    ".npmrc",
    ".yarnrc*",
    ".pgpass",
    ".my.cnf",
    ".boto",
    ".s3cfg",
    ".dockercfg",
    ".dockerconfigjson",
    ".htpasswd",
    ".terraformrc",
    ".vault-token",
    ".secret*",
    "secrets.json",
    "secrets.toml",
    "secrets.yaml",
    "secrets.yml",
    "credentials*",
    "*[_-]credentials",
    "*credentials.json",
    "service[_-]account*.json",
    "client_secret*.json",
    "kaggle.json",
    "kubeconfig*",
    "rclone.conf",
    "*.pem",
    "*.key",
    "*.ppk",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.tfstate",
    "*.tfstate.*",
    ".*_history",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "id_xmss*",
)
"""Names of files, as globs. A name `id_...` without a suffix is one too; `id_map.json` and `id_tools.py` are not."""


_FILES = re.compile("|".join(fnmatch.translate(pattern) for pattern in FILES))


def is_secret(path: str) -> bool:
    """Return whether a relative POSIX path is that of a file that usually holds credentials. Case does not matter."""
    lower = path.lower()
    parts = lower.split("/")
    if any(part in FOLDERS for part in parts):
        return True
    if any(f"/{place}/" in f"/{lower}/" for place in PLACES):
        return True
    return any(_is_secret_name(part) for part in parts)


@lru_cache(maxsize=10_000)  # the folders of a tree come again for each of its files
def _is_secret_name(name: str) -> bool:
    if name.startswith("id_") and name.endswith(".pub"):
        return False  # the public half of an SSH key
    if name.startswith("id_") and "." not in name:
        return True
    return _FILES.match(name) is not None


def is_asked_for(path: str, include: Sequence[str]) -> bool:
    """Return whether `include` names the file, or a folder with such a name that holds it.

    A folder with an ordinary name that holds it is not enough: who includes `data` does not mean `data/.env`.

    Args:
        path: relative POSIX path of the file.
        include: relative POSIX paths without a trailing slash.
    """
    return any(path == entry or (path.startswith(f"{entry}/") and is_secret(entry)) for entry in include)
