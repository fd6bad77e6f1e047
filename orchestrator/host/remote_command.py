"""How a command gets through a login shell, and how its answer is told from what else that shell prints; pure.

sshd gives a command to the user's login shell: bash, zsh, fish, tcsh, whatever it is. That shell first reads start
files (`~/.bashrc`, `~/.zshenv`, `config.fish`), which may print, change the folder or PATH, read the standard input, or
start another shell that reads its commands there. So a command goes out as one line that means the same to each of
these shells: `/bin/sh -c '...'` without a backslash, an exclamation mark or a second line. On the machine the line
becomes the real command, run by /bin/sh in the home folder, between two marks on standard output and standard error.
What is printed outside of the marks is noise, and an exit code comes with the second mark.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_NOISE_BYTES = 4 << 10  # that are kept, for an error message
MOST_HEAD_BYTES = 200  # of the line of a mark
MOST_NAME = 60  # characters of a command in a message

_PROGRAM = re.compile(r"/bin/(\w+\.(?:py|sh))'? ?(\w+)?")
_OWN_VERB = re.compile(r"[a-z]+")


def new_mark() -> str:
    """Return a mark that no start file can print by chance."""
    return f"pixel-orch-{secrets.token_hex(12)}"


@dataclass(frozen=True)
class RemoteCommand:
    """One command as it is sent.

    Args:
        command: for /bin/sh, already quoted.
        stdin: what it reads: nothing, what is sent after the line `go`, or what `typed_with` gives it.
        mark: begins the lines around its output.
    """

    command: str
    stdin: Literal["nothing", "sent", "given"] = "nothing"
    mark: str = field(default_factory=new_mark)

    @property
    def line(self) -> str:
        """The line for the login shell, whichever it is."""
        encoded = base64.b64encode(self._script().encode("utf-8", "surrogateescape")).decode()
        decode = f'eval "$(printf %s {encoded}|base64 -d)"'
        return f"/bin/sh -c 'PATH=\"${{PATH:+$PATH:}}{USUAL_PATH}\";export PATH;{decode}'"

    @property
    def typed(self) -> bytes:
        """The same as a line of standard input, for a shell that reads its commands there."""
        return f"exec {self.line}\n".encode()

    def typed_with(self, data: bytes) -> bytes:
        """The same, with the command's standard input in base64: for a shell that reads all before it runs anything."""
        return b"printf %s '" + base64.b64encode(data) + f"'|{self.line}\n".encode()

    @property
    def go(self) -> bytes:
        """The line after which the command's own standard input begins."""
        return f"{self.mark} go\n".encode()

    def _script(self) -> str:
        """Return what /bin/sh runs. The session and its start time let `end_session` find it again."""
        is_sent = self.stdin == "sent"
        skip = f'while IFS= read -r l;do [ "$l" = "{self.mark} go" ]&&break;done\n' if is_sent else ""
        source = " </dev/null" if self.stdin == "nothing" else ""
        return (
            "unset CDPATH\n"
            'seen(){ IFS= read -r s <"/proc/$1/stat"&&set -- ${s##*) }&&echo "$4 ${20}";}\n'
            "set -- $({ seen $$;} 2>/dev/null);set -- ${1:-0} $({ seen $1;} 2>/dev/null)\n"
            f'echo "{self.mark} began $1 $3";echo "{self.mark} began" >&2\n'
            f'{skip}cd "$HOME"&&/bin/sh -c {shlex.quote(self.command)}{source}\n'
            f'c=$?;echo "{self.mark} ended $c";echo "{self.mark} ended $c" >&2;exit $c\n'
        )


def is_typed(line: bytes) -> bool:
    """Return whether a line of output is one of ours, printed by a start file that reads standard input."""
    return b"exec /bin/sh -c 'PATH=" in line or b'eval "$(printf %s ' in line


def end_session(session: int, started: int) -> str:
    """Return a command that ends all processes of an earlier command: of its session, unless the number is another's.

    A daemon that made itself a session of its own lives on. What runs as root is ended with sudo, if that is allowed.
    """
    return f"""
if {{ IFS= read -r s </proc/{session}/stat; }} 2>/dev/null; then
  set -- ${{s##*) }}
  [ "${{20}}" = {started} ] || exit 0
fi
for signal in TERM KILL KILL; do
  found=
  for p in /proc/[0-9]*; do
    {{ IFS= read -r s <$p/stat; }} 2>/dev/null || continue
    set -- ${{s##*) }}
    [ "$4" = {session} ] || continue
    found=1
    {{ kill -$signal ${{p#/proc/}} || sudo -n kill -$signal ${{p#/proc/}}; }} 2>/dev/null
  done
  [ -n "$found" ] || break
  sleep 0.3
done
:"""


def short_name(command: str) -> str:
    """Return what to call a command in a message: `agent.py status`, or its first words."""
    found = _PROGRAM.search(command)
    if found is None:
        return command if len(command) <= MOST_NAME else command[:MOST_NAME] + "..."
    program, verb = found.groups()
    return f"{program} {verb}" if program == "agent.py" and verb and _OWN_VERB.fullmatch(verb) else program


class Framed:
    """Takes one stream of a command's output in pieces, and passes on what is between the marks.

    Args:
        mark: of the command.
        take: gets the output.
    """

    def __init__(self, mark: str, take: Callable[[bytes], object]) -> None:
        self._began, self._ended = f"{mark} began".encode(), f"{mark} ended ".encode()
        self._take = take
        self._held = b""  # may be the beginning of a mark
        self._where = "before"
        self.noise = b""  # the end of what was printed before the first mark
        self.session = self.started = 0  # of the command; 0 where the machine has no /proc
        self.exit_code: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the first mark has come: the command runs."""
        return self._where != "before"

    @property
    def has_ended(self) -> bool:
        """Whether the second mark has come: the output is whole."""
        return self._where == "after"

    def put(self, piece: bytes) -> None:
        """Take the next piece."""
        if self._where == "after":
            return
        self._held += piece
        while self._step():
            pass

    def _step(self) -> bool:
        """Go one mark further; return whether that is possible."""
        if self._where == "before":
            head = self._line_after(self._began, self._drop)
            if head is None:
                return False
            words = head.split()
            if len(words) == 2 and all(word.isdigit() for word in words):
                self.session, self.started = int(words[0]), int(words[1])
            self._where = "inside"
            return True
        code = self._line_after(self._ended, self._take) if self._where == "inside" else None
        if code is None:
            return False
        self.exit_code = int(code) if code.isdigit() and len(code) <= 3 else -1
        self._where, self._held = "after", b""
        return False

    def _line_after(self, token: bytes, pass_on: Callable[[bytes], object]) -> bytes | None:
        """Pass on what comes before a token; return the rest of the token's line, None while it is not here yet."""
        at = self._held.find(token)
        if at < 0:
            keep = range(min(len(token) - 1, len(self._held)), 0, -1)
            begun = next((size for size in keep if token.startswith(self._held[-size:])), 0)
            self._pass(pass_on, len(self._held) - begun)
            return None
        self._pass(pass_on, at)
        end = self._held.find(b"\n", len(token))
        if end < 0 and len(self._held) < len(token) + MOST_HEAD_BYTES:
            return None
        end = end if end >= 0 else len(self._held)
        line, self._held = self._held[len(token) : end], self._held[end + 1 :]
        return line

    def _pass(self, pass_on: Callable[[bytes], object], size: int) -> None:
        if size:
            piece, self._held = self._held[:size], self._held[size:]
            pass_on(piece)

    def _drop(self, noise: bytes) -> None:
        self.noise = (self.noise + noise)[-MOST_NOISE_BYTES:]

    def close(self) -> None:
        """The stream has ended, without the second mark: pass on what is held."""
        if self._where == "inside":
            self._pass(self._take, len(self._held))
        elif self._where == "before":
            self._drop(self._held)
            self._held = b""
