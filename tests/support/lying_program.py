"""A program that takes over the agent of its own instance: from then on the machine lies to whoever asks.

    python lying_program.py all      every other answer tells another lie of `lies.py`; the transfers lie too
    python lying_program.py LIE      every answer tells this one

It trains on meanwhile: a step is a short sleep, and a checkpoint is written every tenth one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

BIN = Path("..", "bin").resolve()

AGENT = """#!/usr/bin/env python3
import io, json, os, subprocess, sys, tarfile, tempfile
sys.path.insert(0, {code!r})
from lies import LIES, told
here = os.path.dirname(os.path.abspath(__file__))
words = [sys.executable, os.path.join(here, "true_agent.py"), *sys.argv[1:]]
which, verb = {which!r}, sys.argv[1]
out = sys.stdout.buffer
outside = os.path.join(tempfile.gettempdir(), "owned-by-a-machine")


def evil_tar():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, kind in (("../../../../owned", tarfile.REGTYPE), (outside, tarfile.REGTYPE),
                           ("notes.txt", tarfile.SYMTYPE), ("../key", tarfile.LNKTYPE), ("key", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../key"
            member.size = 6 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"owned\\n"))
    return packed.getvalue()


if verb == "status":
    true = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    count_path = os.path.join(here, "count")
    count = int(open(count_path).read()) if os.path.exists(count_path) else 0
    open(count_path, "w").write(str(count + 1))
    names = sorted(LIES)
    turn = count // 2
    if which != "all":
        answer = told(which, true)
    elif count % 2 and turn < len(names) and true["trainer"]["state"] == "running":
        open(os.path.join(here, "told"), "a").write(names[turn] + "\\n")
        answer = told(names[turn], true)
    else:
        answer = json.dumps(true).encode()
    out.write(answer)
elif verb == "read" and which == "all" and not os.path.exists(os.path.join(here, "read-" + sys.argv[3])):
    open(os.path.join(here, "read-" + sys.argv[3]), "w").close()
    try:
        while True:  # once for each file: an endless stream
            out.write(b"\\0" * 65536)
    except OSError:
        pass
elif verb == "rest" and which == "all":
    files = [{{"name": name, "size_bytes": 6}} for name in
             ("../../../../owned", outside, "a\\nb", "notes.txt", "key", "x" * 3000)]
    out.write(json.dumps({{"files": files}}).encode())
elif verb == "pack" and which == "all":
    sys.stdin.read()
    out.write(evil_tar())
else:
    os.execv(words[0], words)
out.flush()
"""


def take_over(which: str) -> None:
    """Replace the agent."""
    if not (BIN / "true_agent.py").exists():
        (BIN / "agent.py").rename(BIN / "true_agent.py")
    part = BIN / "agent.part"
    part.write_text(AGENT.format(code=str(Path.cwd()), which=which))
    part.replace(BIN / "agent.py")


def main() -> None:
    """Train, and lie."""
    out, steps = Path(os.environ["PIXEL_ORCH_OUT"]), int(sys.argv[2])
    with (out / "metrics.jsonl").open("a") as metrics:
        for step in range(1, steps + 1):
            metrics.write(json.dumps({"step": step, "images_per_s": 10.0}) + "\n")
            metrics.flush()
            if step % 10 == 0:
                part = out / "part"
                part.write_text(f"weights after {step}")
                part.rename(out / f"checkpoint-{step}.pt")
            if step == 2:
                take_over(sys.argv[1])
            time.sleep(0.05)


if __name__ == "__main__":
    main()
