"""The `Host` protocol over SSH: each call is one command of `infra/instance/agent.py`."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from infra.instance.layout import files_to_send
from orchestrator.errors import CommandError, CommandTimeoutError, HostError
from orchestrator.host import answers, sync, tree_answers
from orchestrator.host.base import CommandResult, Cursor, HostStatus, Job, RestoredOutputs, Setup
from orchestrator.host.setup_lines import SetupLines
from orchestrator.host.shell import SshShell, TooMuchError, Write
from orchestrator.host.tree_transfer import TreeReceiver, feed_state, most_stream_bytes
from orchestrator.host.user_setup import run_user_setup
from orchestrator.runs.files import check_room, part_path, sha256_of, sync_folder
from orchestrator.runs.output_tree import TreeChanges, TreeFile, TreeState
from orchestrator.runs.outputs import ExtraOutput, Output, path_below

PIECE = 1 << 18
PYTHON = ("python3", "-E", "-X", "utf8")
"""The agent's Python. What a start file sets (LANG, PYTHONPATH, PYTHONHOME) is for the user's programs."""
BASH = ("bash", "-p")  # without BASH_ENV, and without functions that a start file exports under a program's name
MOST_PATIENCE = 4
JOIN_S = 0.5
TAR_HEADER_BYTES = 4096  # of one member: its header, that of its long name, and the rest of its last block
TAR_END_BYTES = 20480
MOST_INSTANCES = 2_000  # of a run whose checkpoints the next one may use: the longest word of a command line is 128 KiB
HOLD_S, HOLD_EVERY_S = 1800, 240.0  # data may take hours; the guard on the machine waits so long for the next "hold"
DATA_TIMEOUT_S = 6 * 3600.0  # downloading 131 GB takes half an hour at 100 MB/s, reading it another


class SshHost:
    """`Host` over one `SshShell`.

    Args:
        shell: the connection; it reopens after it was cut.
        answer_timeout_s: for a short command, and for a pause within a transfer.
        setup_timeout_s: for the bootstrap, which may install torch.
        renewed: gets the host's new public key once it is in use.
    """

    def __init__(
        self,
        shell: SshShell,
        *,
        answer_timeout_s: float,
        setup_timeout_s: float,
        renewed: Callable[[str], None] = lambda key: None,
    ) -> None:
        self.shell = shell
        self.answer_timeout_s = answer_timeout_s
        self.setup_timeout_s = setup_timeout_s
        self.renewed = renewed
        self._setup_lines = SetupLines()
        self._patience = 1  # times the time-out of a poll

    @property
    def received_bytes(self) -> int:
        """How many bytes have come from the machine."""
        return self.shell.received_bytes

    def look_with(self, look: Callable[[], None]) -> None:
        """Call `look` about once a second while a command or a transfer runs."""
        self.shell.look_with(look)

    # -- set up

    def setup_words(self) -> str:
        """Return the newest line that the set-up has printed, "" where none is new."""
        return self._setup_lines.newest()

    def set_up(self, job: Job) -> Setup:
        """Send pixel-orch's own files; then run the bootstrap while the code is synced and the data arrive."""
        self._send_own_files(job)
        answer: list[Setup | Exception] = []
        bootstrap = threading.Thread(target=self._bootstrap_into, args=(job, answer), name="bootstrap", daemon=True)
        bootstrap.start()
        try:
            self._sync(job)
            with self._holding(job):
                data = self._data(job) if job.data else {}
            while bootstrap.is_alive():
                bootstrap.join(JOIN_S)
                self.shell.look_now()
        except BaseException:
            self.shell.close()  # which ends the bootstrap's command too
            bootstrap.join(self.answer_timeout_s)
            raise
        if isinstance(answer[0], Exception):
            raise answer[0]
        setup = replace(answer[0], **data)
        if job.user_setup is None:
            return setup
        with self._holding(job):
            told = self._setup_lines.listener()
            return run_user_setup(self.shell, job, setup, limit_s=self.setup_timeout_s, told=told)

    @contextmanager
    def _holding(self, job: Job) -> Iterator[None]:
        """Keep the guard on the machine waiting as long as this runs: data may take hours, and no agent watches yet."""
        over = threading.Event()

        def hold() -> None:
            while not over.wait(HOLD_EVERY_S):
                with suppress(HostError):
                    self._agent(job.root, "hold", job.root, str(HOLD_S))

        thread = threading.Thread(target=hold, name="hold", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _data(self, job: Job) -> dict[str, Any]:
        """Fetch or prepare the data on the machine; return how many seconds that took, and which of the two it was."""
        asked = json.dumps(job.data_asked, sort_keys=True) if job.data_asked is not None else ""
        words = [job.root, job.data or "", job.data_url or "", asked, *job.data_words]
        # The lock serializes this with other runs on the machine: two writers of one folder would damage it.
        lock = f"pixel-orch/data.{job.data}.lock"
        command = shlex.join(["flock", "-o", lock, *BASH, f"{job.root}/bin/data.sh", *words])
        result = self.shell.run(command, timeout_s=DATA_TIMEOUT_S, told=self._setup_lines.listener())
        if not result.ok or not answers.last_line(result.stdout):
            raise CommandError("data.sh", result.exit_code, result.stderr.decode(errors="replace"))
        told = answers.read(
            answers.DataAnswer, answers.last_line(result.stdout), where=self.shell.where, program="data.sh"
        )
        return {"data_s": told.seconds, "data_how": told.how}

    def _send_own_files(self, job: Job) -> None:
        files = files_to_send(has_bucket=bool(job.bucket), has_dataset=bool(job.data), has_image=bool(job.image))
        if job.config_json is not None:
            files["config.json"] = job.config_json
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755 if name.startswith("bin/") else 0o600
                tar.addfile(member, io.BytesIO(content))
        root = shlex.quote(job.root)
        self._do(f"mkdir -p {root}/code {root}/out {root}/agent && tar -xf - -C {root}", data=packed.getvalue())

    def _bootstrap_into(self, job: Job, answer: list[Setup | Exception]) -> None:
        try:
            answer.append(self._bootstrap(job))
        except Exception as error:  # noqa: BLE001  (raised again in the thread that waits for this one)
            answer.append(error)

    def _bootstrap(self, job: Job) -> Setup:
        purpose = "bundled" if job.is_bundled else "image" if job.image else "own"
        root = shlex.quote(job.root)
        asked = {"s3": bool(job.bucket), "gpu": job.has_gpu, "cpu": job.allow_cpu}
        words = " ".join([purpose, *(word for word, is_asked in asked.items() if is_asked)])
        # The lock serializes retries: after a cut connection the first bootstrap may still run on the machine.
        alone = f"flock -o {root}/agent/bootstrap.lock {' '.join(BASH)} {root}/bin/bootstrap.sh {root} {words}"
        result = self.shell.run(alone, timeout_s=self.setup_timeout_s, told=self._setup_lines.listener())
        if not result.ok or not answers.last_line(result.stdout):
            raise CommandError(
                "bootstrap.sh", result.exit_code, (result.stderr or result.stdout).decode(errors="replace")
            )
        return answers.setup_of(result.stdout, where=self.shell.where)

    def _sync(self, job: Job) -> None:
        tree = sync.Tree(job.tree, job.files, digests=job.digests)
        code = f"{job.root}/code"
        there = answers.read_names(
            self._agent(job.root, "manifest", code), where=self.shell.where, program="agent.py manifest"
        )
        digests = sync.manifest(tree)
        send, delete = sync.changes(digests, there)
        said = self._agent(job.root, "apply", code, feed=lambda write: sync.write_tar(tree, send, delete, write))
        written = answers.read(answers.ApplyAnswer, said, where=self.shell.where, program="agent.py apply").written
        if written and written != sync.digest_of_sent(digests, send):
            sync.check_copies(tree, digests, send)
            raise HostError(f"{self.shell.where}: what was written there is not what was sent; its disk may be damaged")

    def send(self, job: Job, path: Path) -> None:
        """Stream a checkpoint to a temporary name; rename it once every byte has arrived."""
        target = f"{job.root}/out/{path.name}"
        part, final = shlex.quote(f"{job.root}/out/.{path.name}.part"), shlex.quote(target)

        def feed(write: Write) -> None:
            with path.open("rb") as file:
                while piece := file.read(PIECE):
                    write(piece)

        size = path.stat().st_size
        self._do(f'cat > {part} && [ "$(wc -c < {part})" -eq {size} ] && mv {part} {final}', feed=feed)

    def restore(
        self, job: Job, setup: Setup, least_step: int, instance_ids: Sequence[str]
    ) -> tuple[tuple[Output, ...], str]:
        """Run `checkpoint_uploader.py restore`: the instance is nearer to S3 than this machine."""
        place = {**(_place(job, setup) or {}), "instances": list(instance_ids)[-MOST_INSTANCES:]}
        words = ["restore", job.root, json.dumps(place), str(least_step)]
        command = shlex.join([setup.s3_python or "python3", f"{job.root}/bin/checkpoint_uploader.py", *words])
        result = self.shell.run(command, timeout_s=self.setup_timeout_s)
        if not result.ok or not answers.last_line(result.stdout):
            return (), CommandError(
                "checkpoint_uploader.py restore", result.exit_code, result.stderr.decode(errors="replace")
            ).tail
        return answers.restored(result.stdout, where=self.shell.where)

    def restore_outputs(
        self, job: Job, setup: Setup, known: Mapping[str, int], instance_ids: Sequence[str]
    ) -> RestoredOutputs:
        """Run `checkpoint_uploader.py restore-outputs`; it may download gigabytes."""
        place = {**(_place(job, setup) or {}), "instances": list(instance_ids)[-MOST_INSTANCES:]}
        words = ["restore-outputs", job.root, json.dumps(place), json.dumps(dict(known))]
        command = shlex.join([setup.s3_python or "python3", f"{job.root}/bin/checkpoint_uploader.py", *words])
        with self._holding(job):
            told = self._setup_lines.listener()
            result = self.shell.run(command, timeout_s=DATA_TIMEOUT_S, told=told)
        if not result.ok or not answers.last_line(result.stdout):
            said = result.stderr.decode(errors="replace")
            error = CommandError("checkpoint_uploader.py restore-outputs", result.exit_code, said)
            return RestoredOutputs(problem=" ".join(error.tail.split()))
        return tree_answers.restored_outputs(result.stdout, where=self.shell.where)

    def renew_host_key(self, job_root: str, pin: Callable[[str], None]) -> str:
        """Run `agent.py rekey`: make the key on the host, pin it here, activate it, reconnect."""
        public = answers.public_host_key(self._agent(job_root, "rekey", job_root, "prepare"), where=self.shell.where)
        pin(public)
        self._agent(job_root, "rekey", job_root, "activate")
        self.shell.trust(public)
        self.renewed(public)
        return public

    def renew(self, job_root: str, generation: int) -> None:
        """Run `agent.py renew`, which waits until the earlier watch process and its trainer are gone."""
        self._agent(job_root, "renew", job_root, str(generation))

    def start(self, job: Job, setup: Setup) -> None:
        """Give the agent its job on standard input: the user's variables appear on no command line and on no disk."""
        env = dict(job.env)
        where = answers.folder_path(self._do(f"cd {shlex.quote(job.root)} && pwd").stdout, where=self.shell.where)
        if job.is_bundled:
            env["PIXEL_ORCH_CONFIG"] = f"{where}/config.json"
        elif setup.path_first:
            env.setdefault("VIRTUAL_ENV", os.path.dirname(os.path.dirname(setup.python)))  # uv installs there
        words = {"{python}": setup.python, "{root}": where}
        order = {
            "command": self._command_of(job, setup, words),
            "image": job.image,
            "env": env,
            "path_first": setup.path_first or os.path.dirname(setup.python),
            "owner_timeout_s": job.owner_timeout_s,
            "stop_timeout_s": job.stop_timeout_s,
            "metadata_poll_s": job.metadata_poll_s,
            "time_limit_s": job.time_limit_s,
            "idle_s": job.idle_s,
            "generation": job.generation,
            "trains_alone": job.trains_alone,
            "metrics": None if job.is_bundled else {"patterns": dict(job.metric_patterns)},
            "stop_signal": job.stop_signal,
            "s3": _place(job, setup),
            "output_rules": job.output_rules,
            "keep_outputs_s": job.keep_outputs_s,
            "shutdown": ["sudo", "shutdown", "-h", "now"],
        }
        self._agent(job.root, "start", job.root, feed=lambda write: write(json.dumps(order).encode()))

    def _command_of(self, job: Job, setup: Setup, words: Mapping[str, str]) -> list[str]:
        """Return what the agent starts: the command as it is, or what runs it in the job's image."""
        if job.image:
            names = ",".join(job.env)
            program = [setup.python, "-E", f"{words['{root}']}/bin/container.py", "run", words["{root}"]]
            return [*program, job.image, names, "1" if setup.gpu else "0", *job.command]
        return [self._filled(word, words) if job.is_bundled else word for word in job.command]

    @staticmethod
    def _filled(word: str, words: Mapping[str, str]) -> str:
        for name, value in words.items():
            if word.startswith(name):
                return value + word[len(name) :]
        return word

    # -- watch

    def poll(self, job_root: str, cursor: Cursor, allow_s: float | None = None, allow_bytes: float = 0.0) -> HostStatus:
        """Run `agent.py status`; on a machine that is slow now, with more time at each try."""
        allowed_s = "" if allow_s is None else f"{allow_s:.1f}"
        words = [job_root, str(cursor.metrics), str(cursor.log), allowed_s, f"{allow_bytes:.0f}"]
        try:
            raw = self._agent(job_root, "status", *words, patience=self._patience)
        except CommandTimeoutError:
            self._patience = min(2 * self._patience, MOST_PATIENCE)
            raise
        self._patience = 1
        return answers.host_status(raw, cursor, where=self.shell.where)

    def fetch(self, job_root: str, output: Output, destination: Path) -> bool:
        """Stream into a `.part` file (which resumes an earlier try), compare the digest, rename."""
        part = part_path(destination, output.sha256)
        offset = part.stat().st_size if part.exists() else 0
        if offset > output.size_bytes:
            part.unlink()
            offset = 0
        check_room(destination.parent, output.size_bytes - offset)
        is_whole = False
        with part.open("ab") as file, suppress(TooMuchError):
            command = self._command(job_root, "read", job_root, output.name, str(offset))
            most_bytes = output.size_bytes - offset
            result = self.shell.run(command, timeout_s=self.answer_timeout_s, sink=file.write, most_bytes=most_bytes)
            is_whole = result.ok
            file.flush()
            os.fsync(file.fileno())
        if not is_whole or part.stat().st_size != output.size_bytes or sha256_of(part) != output.sha256:
            part.unlink()  # removed or replaced while it was read: the next poll lists what there is now
            return False
        os.replace(part, destination)
        sync_folder(destination.parent)
        return True

    def tree_changes(self, job_root: str, state: int, base: int) -> TreeChanges:
        """Run `agent.py changes`."""
        raw = self._agent(job_root, "changes", job_root, str(state), str(base), patience=MOST_PATIENCE)
        return tree_answers.tree_changes(raw, where=self.shell.where)

    def fetch_tree(
        self, job_root: str, files: Sequence[TreeFile], folder: Path, had: Mapping[str, Path]
    ) -> frozenset[str]:
        """Run `agent.py contents` and take its frames apart."""
        folder.mkdir(parents=True, exist_ok=True)
        receiver = TreeReceiver(files, folder, had)
        check_room(folder, receiver.missing_bytes)
        asked = json.dumps(receiver.asked).encode()

        def feed(write: Write) -> None:
            write(asked)

        with receiver, suppress(TooMuchError):
            result = self.shell.run(
                self._command(job_root, "contents", job_root),
                timeout_s=self.answer_timeout_s,
                feed=feed,
                sink=receiver.feed,
                most_bytes=most_stream_bytes(receiver.missing_bytes, len(files)),
            )
            if not result.ok:
                raise CommandError("agent.py contents", result.exit_code, result.stderr.decode(errors="replace"))
        return receiver.here

    def acknowledge_tree(self, job_root: str, state: int) -> None:
        """Run `agent.py mirrored`."""
        self._agent(job_root, "mirrored", job_root, str(state), patience=MOST_PATIENCE)

    def send_tree(self, job: Job, state: TreeState, contents: Callable[[TreeFile], Path]) -> None:
        """Run `agent.py restore`."""
        raw = self._agent(job.root, "restore", job.root, feed=lambda write: feed_state(state, contents, write))
        answer = answers.read(tree_answers.RestoredTreeAnswer, raw, where=self.shell.where, program="agent.py restore")
        if answer.damaged or answer.restored != len(state.files):
            names = ", ".join(answer.damaged[:3]) or f"{len(state.files) - answer.restored} files"
            raise HostError(f"{self.shell.where}: outputs did not arrive as they were sent ({names}); a damaged disk?")

    def extra_outputs(self, job_root: str) -> tuple[ExtraOutput, ...]:
        """Run `agent.py rest`."""
        return answers.extra_outputs(self._agent(job_root, "rest", job_root), where=self.shell.where)

    def fetch_extra_outputs(self, job_root: str, files: Sequence[ExtraOutput], folder: Path) -> tuple[ExtraOutput, ...]:
        """Run `agent.py pack` and unpack it here: plain files only, and none outside of the folder."""
        names = json.dumps([file.name for file in files]).encode()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as packed:

            def feed(write: Write) -> None:
                write(names)

            most_bytes = TAR_END_BYTES + sum(file.size_bytes + TAR_HEADER_BYTES for file in files)
            check_room(folder, most_bytes)
            result = self.shell.run(
                self._command(job_root, "pack", job_root),
                timeout_s=self.answer_timeout_s,
                feed=feed,
                sink=packed.write,
                most_bytes=most_bytes,
            )
            if not result.ok:
                raise CommandError("agent.py pack", result.exit_code, result.stderr.decode(errors="replace"))
            packed.seek(0)
            try:
                return _unpack(packed, folder, {file.name: file.size_bytes for file in files})
            except (HostError, OSError):
                raise
            except Exception as error:  # noqa: BLE001  (a tar of 1,000 headers in a row is a RecursionError, and so on)
                raise CommandError("agent.py pack", 0, f"the tar that arrived is damaged: {error}") from None

    def stop(self, job_root: str) -> None:
        """Let the agent send SIGTERM to the trainer."""
        self._agent(job_root, "stop", job_root)

    def close(self) -> None:
        """Close the connection."""
        self.shell.close()

    # -- commands

    def _command(self, root: str, verb: str, *words: str) -> str:
        return shlex.join([*PYTHON, f"{root}/bin/agent.py", verb, *words])

    def _agent(self, root: str, verb: str, *words: str, feed: Any = None, patience: int = 1) -> bytes:
        command = self._command(root, verb, *words)
        result = self.shell.run(command, timeout_s=patience * self.answer_timeout_s, feed=feed)
        if not result.ok:
            raise CommandError(f"agent.py {verb}", result.exit_code, result.stderr.decode(errors="replace"))
        return result.stdout

    def _do(self, command: str, data: bytes | None = None, feed: Any = None) -> CommandResult:
        if data is not None:
            feed = lambda write: write(data)  # noqa: E731
        result = self.shell.run(command, timeout_s=self.answer_timeout_s, feed=feed)
        if not result.ok:
            raise CommandError(command, result.exit_code, result.stderr.decode(errors="replace"))
        return result


def _unpack(packed: IO[bytes], folder: Path, asked: Mapping[str, int]) -> tuple[ExtraOutput, ...]:
    """Write the plain files of a tar into a folder: those that were asked for, none larger than announced.

    A file may be smaller, or missing: the program's last process may still have changed it.
    """
    written: dict[str, ExtraOutput] = {}
    with tarfile.open(fileobj=packed, mode="r:") as tar:  # "r:" takes no compression: 43 bytes would become 812 MB
        for member in tar:
            if not member.isreg() or member.issparse() or member.size > asked.get(member.name, -1):
                continue
            target = path_below(folder, member.name)
            content = tar.extractfile(member)
            if content is not None and _takes_file(target):
                target = path_below(folder, member.name)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file)
                written[member.name] = ExtraOutput(member.name, member.size)
    return tuple(written.values())


def _takes_file(target: Path) -> bool:
    """Make the folder of a file; return whether the file can be there.

    It cannot where an earlier machine left a file with the name of its folder, or a folder with its name.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return False
    return target.is_file() or not os.path.lexists(target)


def _place(job: Job, setup: Setup) -> dict[str, str] | None:
    """Return where `checkpoint_uploader.py` uploads checkpoints to, and the interpreter that runs it."""
    if job.bucket is None:
        return None
    place = {"bucket": job.bucket.bucket, "prefix": job.bucket.prefix, "region": job.bucket.region}
    return {**place, "python": setup.s3_python or "python3"}
