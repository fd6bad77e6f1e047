"""Names and texts that any tracker takes, without the secrets of the run.

What a program calls its metrics is a stranger's: it may hold anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.formatting import cut, one_line

OURS = ("bill", "run", "samples")  # the first part of the names that only pixel-orch gives
LONGEST_NAME = 120  # MLflow takes 250
LONGEST_TEXT = 500  # the oldest MLflow servers take no longer value of a parameter
LEAST_SECRET = 6  # characters: the value 1 of a SEED stands in many texts and is no secret
HIDDEN = "***"

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_./ -]")
_SECRET_WORD = re.compile(r"pass|secret|token|api[-_]?key|access[-_]?key|credential|auth", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")


def safe_name(name: str) -> str:
    """Return the name of a metric in a form that MLflow, Weights & Biases and TensorBoard all take.

    Letters, digits, `_`, `.`, `-`, blanks and `/` between two parts stay. A name that had to be changed, or that stands
    for something of ours, gets six digits of its hash, so that two names never become one.

    Args:
        name: as the program wrote it.
    """
    parts = [_FORBIDDEN.sub("_", part).strip(" ") for part in name[: 4 * LONGEST_NAME].split("/")]
    plain = "/".join(part for part in parts if part and set(part) != {"."})[:LONGEST_NAME].rstrip("/ ")
    if plain.startswith("_"):  # Weights & Biases keeps such names for itself
        plain = f"x{plain}"
    if plain and plain == name and plain.partition("/")[0].lower() not in OURS:
        return plain
    digits = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{'program/' if plain.partition('/')[0].lower() in OURS else ''}{plain or 'metric'}-{digits}"


def not_a_folder(names: Iterable[str]) -> dict[str, str]:
    """Return each name with the one under which a store of files can keep it.

    `loss` and `loss/kl` cannot both be files: the first is then `loss.value`.
    """
    known = set(names)
    folders = {"/".join(name.split("/")[:count]) for name in known for count in range(1, name.count("/") + 1)}
    return {name: f"{name}.value" if name in folders else name for name in known}


class Secrets:
    """Hides the values of the run's variables, and what looks like a credential, in texts.

    Args:
        env: the variables of the run. A value of fewer than six characters is hidden where its name says what it is.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        hidden = {value for name, value in env.items() if len(value) >= LEAST_SECRET or _SECRET_WORD.search(name)}
        self._values = sorted((value for value in hidden if value), key=len, reverse=True)

    def hide(self, text: object) -> str:
        """Return a text without them, on one line, at most 500 characters."""
        plain = str(text)
        for value in self._values:
            plain = plain.replace(value, HIDDEN).replace(one_line(value), HIDDEN)
        return cut(one_line(_LOGIN.sub(f"{HIDDEN}@", plain)), LONGEST_TEXT)

    def words(self, command: Sequence[str]) -> str:
        """Return a command without the values of flags such as `--api-key`."""
        shown, hides_next = [], False
        for word in command:
            name, equals, _ = word.partition("=")
            is_secret = _SECRET_WORD.search(name) is not None
            if hides_next and not word.startswith("-"):
                shown.append(HIDDEN)
            else:
                shown.append(f"{name}={HIDDEN}" if is_secret and equals else word)
            hides_next = is_secret and not equals and word.startswith("-")
        return self.hide(" ".join(shown))


def without_login(text: object) -> str:
    """Return an address, or an error that holds one, without the user and password in it."""
    return one_line(_LOGIN.sub("", str(text)))
