"""Replacements of system programs on an embedded instance, so that it cannot affect this machine.

`sudo` ignores its flags and runs the command: there is no root. `ssh-keygen` works without OpenSSH. `shutdown`,
`poweroff`, `halt`, `reboot` and `systemctl poweroff` request the embedded EC2 to end or restart the instance, through a
URL with a secret for each instance.
"""

import shlex
import sys
from pathlib import Path

_SUDO = """#!/bin/sh
# An embedded instance has no root: the command runs as the user.
while [ $# -gt 0 ]; do
    case "$1" in
        --) shift; break ;;
        -u|-g|-C|-h|-p) shift 2 ;;
        -*) shift ;;
        *=*) export "$1"; shift ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || exit 0
exec "$@"
"""

_POWER = '''"""Ends or restarts this embedded instance through the embedded EC2, and not the machine that it runs on."""
import json, sys, urllib.error, urllib.request

URL = {url!r}


def parse(name, words):
    """Return (action, delay in seconds, error) of a command line."""
    action = "reboot" if name == "reboot" else "shutdown"
    if name in ("systemd-run", "busctl", "loginctl"):
        return None, 0, "an embedded instance has no systemd"
    if name == "systemctl":
        if words[:1] == ["reload"] and words[1:] in (["ssh"], ["sshd"]):
            return None, 0, None  # the embedded SSH server reads its key for each connection
        action = {{"poweroff": "shutdown", "halt": "shutdown", "reboot": "reboot"}}.get(words[0] if words else "")
        return (action, 0, None) if action else (None, 0, "an embedded instance has no systemd")
    if name != "shutdown":
        return action, 0, None
    flags = [word for word in words if word.startswith("-")]
    rest = [word for word in words if not word.startswith("-")]
    if "-c" in flags:
        return "cancel", 0, None
    if "-k" in flags:
        return None, 0, None
    if "-r" in flags or "--reboot" in flags:
        action = "reboot"
    when = rest[0] if rest else "+1"
    if when == "now":
        return action, 0, None
    if when.removeprefix("+").isdigit():
        return action, 60 * int(when.removeprefix("+")), None
    return None, 0, "cannot parse time " + repr(when) + " (use now or +MINUTES)"


action, delay_s, error = parse(sys.argv[1], sys.argv[2:])
if error:
    sys.exit(sys.argv[1] + ": " + error)
if action:
    body = json.dumps({{"action": action, "delay_s": delay_s}}).encode()
    request = urllib.request.Request(URL, data=body, headers={{"Content-Type": "application/json"}}, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
    try:
        opener.open(request, timeout=20).read()
    except (OSError, urllib.error.URLError) as failure:
        sys.exit(sys.argv[1] + ": the embedded EC2 does not answer: " + str(failure))
'''
_KEYGEN = '''"""ssh-keygen with the flags for a host key: -t ed25519 -N "" -f FILE."""
import os, sys
import asyncssh

path = sys.argv[sys.argv.index("-f") + 1]
key = asyncssh.generate_private_key("ssh-ed25519")
descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
with os.fdopen(descriptor, "wb") as file:
    file.write(key.export_private_key())
with open(path + ".pub", "wb") as file:
    file.write(key.export_public_key())
'''
_POWER_NAMES = ("shutdown", "poweroff", "halt", "reboot", "systemctl", "systemd-run", "busctl", "loginctl")


_SKEWED = '''"""The clock of this embedded instance and the times of its files are {skew_s} s ahead."""
import os, time

SKEW_S = {skew_s!r}
_time, _time_ns, _gmtime, _localtime, _strftime = time.time, time.time_ns, time.gmtime, time.localtime, time.strftime
_utime = os.utime


def _shifted(stat):
    def shifted(*args, **kwargs):
        found = stat(*args, **kwargs)
        fields, named = found.__reduce__()[1]
        for name in ("st_atime", "st_mtime", "st_ctime"):
            named[name] += SKEW_S
            named[name + "_ns"] += int(SKEW_S * 1e9)
        fields = fields[:7] + tuple(int(value + SKEW_S) for value in fields[7:10])
        return os.stat_result(fields, named)

    return shifted


time.time = lambda: _time() + SKEW_S
time.time_ns = lambda: _time_ns() + int(SKEW_S * 1e9)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.strftime = lambda form, t=None: _strftime(form, time.localtime() if t is None else t)
os.stat, os.lstat, os.fstat = _shifted(os.stat), _shifted(os.lstat), _shifted(os.fstat)


def _unshifted_utime(path, times=None, **kwargs):
    if times is not None:
        times = tuple(moment - SKEW_S for moment in times)
    return _utime(path, times, **kwargs) if times is not None else _utime(path, **kwargs)


os.utime = _unshifted_utime
'''
_DATE = """#!/bin/sh
case "$*" in
    *-d*|*--date*|*-r*|*-s*) exec /bin/date "$@" ;;
esac
exec /bin/date -d "$(/bin/date -u +%Y-%m-%dT%H:%M:%S.%NZ) {skew_s:+.0f} seconds" "$@"
"""


def write_skewed_clock(folder: Path, skew_s: float) -> None:
    """Shift the time of the instance's Python programs and of `date` by `skew_s` seconds.

    A machine has one clock for all users, so the shift is in `sitecustomize`, which Python imports from PYTHONPATH
    (`folder`/lib).
    """
    (folder / "lib").mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "lib" / "sitecustomize.py").write_text(_SKEWED.format(skew_s=skew_s), encoding="utf-8")
    _write(folder / "bin" / "date", _DATE.format(skew_s=skew_s))


def write_shims(folder: Path, power_url: str) -> None:
    """Write the programs into `folder`, readable by the user only, since `power_url` contains the instance's secret."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "sudo", _SUDO)
    power = folder / ".power.py"
    power.write_text(_POWER.format(url=power_url), encoding="utf-8")
    power.chmod(0o600)
    (folder / ".keygen.py").write_text(_KEYGEN, encoding="utf-8")
    words = " ".join(shlex.quote(word) for word in (sys.executable, "-I", str(folder / ".keygen.py")))
    _write(folder / "ssh-keygen", f'#!/bin/sh\nexec {words} "$@"\n')
    for name in _POWER_NAMES:
        words = " ".join(shlex.quote(word) for word in (sys.executable, "-I", "-S", str(power), name))
        _write(folder / name, f'#!/bin/sh\nexec {words} "$@"\n')


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o700)
