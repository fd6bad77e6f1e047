"""The few programs that an embedded instance brings along, since the machine's own must not be reached from it.

`sudo` drops its flags and runs the rest: there is no root. `shutdown`, `poweroff`, `halt`, `reboot` and `systemctl
poweroff` ask the embedded EC2 to end or restart this instance, through a URL with a secret of this instance's own.
"""

import shlex
import sys
from pathlib import Path

_SUDO = """#!/bin/sh
# There is no root on an embedded instance: the command runs as the user.
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

_POWER = '''"""Ends or restarts this embedded instance by asking the embedded EC2; never the machine it runs on."""
import json, sys, urllib.error, urllib.request

URL = {url!r}


def parse(name, words):
    """(action, delay in seconds, error) of a command line."""
    action = "reboot" if name == "reboot" else "shutdown"
    if name == "systemctl":
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
_POWER_NAMES = ("shutdown", "poweroff", "halt", "reboot", "systemctl")


def write_shims(folder: Path, power_url: str) -> None:
    """Write the programs into `folder`, readable by the user alone: `power_url` has this instance's secret."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "sudo", _SUDO)
    power = folder / ".power.py"
    power.write_text(_POWER.format(url=power_url), encoding="utf-8")
    power.chmod(0o600)
    for name in _POWER_NAMES:
        words = " ".join(shlex.quote(word) for word in (sys.executable, "-I", "-S", str(power), name))
        _write(folder / name, f'#!/bin/sh\nexec {words} "$@"\n')


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o700)
