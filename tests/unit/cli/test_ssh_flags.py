"""`ssh RUN -L 6006:localhost:6006`: OpenSSH's own flags reach OpenSSH."""

from __future__ import annotations

import pytest

from orchestrator.cli.flags import parser
from orchestrator.cli.ssh import own_flags

WAYS = [
    (["-L", "6006:localhost:6006"], ["-L", "6006:localhost:6006"]),
    (["-L6006:localhost:6006"], ["-L", "6006:localhost:6006"]),
    (["-N", "-L", "1:a:1", "-L", "2:b:2"], ["-N", "-o", "ExitOnForwardFailure=yes", "-L", "1:a:1", "-L", "2:b:2"]),
    (["-NL", "1:a:1"], ["-N", "-o", "ExitOnForwardFailure=yes", "-L", "1:a:1"]),
    (["-fNL", "1:a:1"], ["-N", "-o", "ExitOnForwardFailure=yes", "-f", "-L", "1:a:1"]),
    (["-R", "9:localhost:9", "-D", "1080"], ["-R", "9:localhost:9", "-D", "1080"]),
    (["-vv", "-A", "-o", "ServerAliveInterval=10"], ["-v", "-v", "-A", "-o", "ServerAliveInterval=10"]),
    ([], []),
]


@pytest.mark.parametrize(("given", "passed"), WAYS, ids=lambda words: " ".join(words))
def test_the_flags_of_openssh_are_passed_on(given: list[str], passed: list[str]) -> None:
    for words in (["ssh", "run-1", *given], ["ssh", *given, "run-1"]):
        args = parser().parse_args(words)
        assert args.run == "run-1"
        assert own_flags(args) == passed


def test_another_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["ssh", "run-1", "-Z"])
    assert ended.value.code == 2 and "unrecognized arguments: -Z" in capsys.readouterr().err
