"""Which files are sent to an instance, and their paths in its folder `bin/`.

    bin/agent.py, bin/bootstrap.sh ...      the programs, run by path
    bin/program/orchestrator/ ...           what the user's program may import
    bin/infra/instance/watch.py ...         the modules that the programs import, under the names of the source tree

Python looks for the imports of a script in the script's own folder first. So `from infra.instance.watch import Watch`
means the same file under `python3 bin/agent.py`, in the tests and for mypy; nothing is installed on the machine. The
packages' `__init__.py` are sent too: without them Python would prefer an installed package named `infra`.
"""

from __future__ import annotations

from importlib import resources

PROGRAMS = ("agent.py", "bootstrap.sh", "common.sh", "run_environment.py", "torch_builds.json", "user_setup.py")
PROGRAMS_FOR_BUCKET = ("checkpoint_uploader.py",)
PROGRAMS_FOR_DATASET = ("data.sh", "dataset_sync.py")
PROGRAMS_FOR_IMAGE = ("container.py",)
MODULES = (
    "__init__.py",
    "deadline.py",
    "descendants.py",
    "digests.py",
    "docker.py",
    "gpu.py",
    "group_side.py",
    "metadata.py",
    "metrics_process.py",
    "program_side.py",
    "programs.py",
    "renewal.py",
    "requirements.py",
    "trainer_files.py",
    "watch.py",
    "watch_state.py",
    "outputs/__init__.py",
    "outputs/answers.py",
    "outputs/complete_files.py",
    "outputs/files.py",
    "outputs/frames.py",
    "outputs/mirror.py",
    "outputs/readiness.py",
    "outputs/stream.py",
    "metrics/__init__.py",
    "metrics/__main__.py",
    "metrics/collector.py",
    "metrics/finding.py",
    "metrics/growing.py",
    "metrics/log_lines.py",
    "metrics/patterns.py",
    "metrics/plain_lines.py",
    "metrics/progress_bars.py",
    "metrics/saves.py",
    "metrics/sources.py",
    "metrics/tensorboard.py",
    "metrics/values.py",
)
FOR_PROGRAMS = {"orchestrator/__init__.py": "run_log.py", "orchestrator/callbacks.py": "callbacks.py"}
"""What a program may import, by the path below `bin/program`, which comes last in its PYTHONPATH."""

MODULES_FOR_BUCKET = ("outputs/downloader.py", "outputs/stored_state.py", "outputs/uploader.py", "s3_layout.py")
MODULES_FOR_IMAGE = ("user_setup.py",)


def files_to_send(*, has_bucket: bool, has_dataset: bool, has_image: bool = False) -> dict[str, bytes]:
    """Return the content of each file by its path on the machine.

    Args:
        has_bucket: whether checkpoints are uploaded to S3.
        has_dataset: whether a data set is prepared or downloaded before the trainer starts.
        has_image: whether the program runs in a Docker image.
    """
    own = resources.files("infra")
    programs = (
        *PROGRAMS,
        *(PROGRAMS_FOR_BUCKET if has_bucket else ()),
        *(PROGRAMS_FOR_DATASET if has_dataset else ()),
        *(PROGRAMS_FOR_IMAGE if has_image else ()),
    )
    files = {f"bin/{name}": own.joinpath("instance").joinpath(name).read_bytes() for name in programs}
    modules = (*MODULES, *(MODULES_FOR_BUCKET if has_bucket else ()), *(MODULES_FOR_IMAGE if has_image else ()))
    for name in ("__init__.py", *(f"instance/{module}" for module in modules)):
        files[f"bin/infra/{name}"] = own.joinpath(name).read_bytes()
    for name, source in FOR_PROGRAMS.items():
        files[f"bin/program/{name}"] = own.joinpath(f"instance/program/{source}").read_bytes()
    return files
