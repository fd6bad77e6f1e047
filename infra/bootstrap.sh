#!/usr/bin/env bash
# Finds a Python whose torch has kernels for this machine's GPU; where there is none, makes a virtual environment and installs
# the right build. Prints what it does; its last line is one JSON object: python, torch, gpu, why.
#
#   bootstrap.sh ROOT bundled     the bundled trainer: torch is needed
#   bootstrap.sh ROOT own         a program of the user's own: a Python with torch is preferred, none is installed
#   bootstrap.sh ROOT ... s3      also a Python with boto3, for s3_home.py: its path is `s3_python` in the answer
#   bootstrap.sh ROOT ... cpu     go on, on the CPU, where no torch build has kernels for the GPU
set -euo pipefail
root=$1
purpose=$2
second_home="" allow_cpu=""
for word in "${@:3}"; do
  case $word in
    s3) second_home=s3 ;;
    cpu) allow_cpu=yes ;;
  esac
done
builds="$root/bin/torch_builds.json"

gpu=""
if command -v nvidia-smi >/dev/null 2>&1; then
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 || true)
fi

# Exit 0 and a line "<torch version>" if this Python can serve. Without a GPU the version is read from the package's metadata:
# importing torch takes seconds that the trainer pays anyway.
can_serve() {
  "$1" - "$gpu" "$builds" <<'PY' 2>/dev/null
import importlib.metadata, json, sys
gpu, builds = sys.argv[1], json.load(open(sys.argv[2]))
try:
    for need in ("torch", "numpy", "pydantic", "sklearn", "PIL"):
        version = importlib.metadata.version({"sklearn": "scikit-learn", "PIL": "pillow"}.get(need, need))
        torch_version = version if need == "torch" else torch_version
except importlib.metadata.PackageNotFoundError:
    sys.exit(1)
if gpu:
    import torch
    if not torch.cuda.is_available():
        sys.exit(1)
    major, minor = torch.cuda.get_device_capability(0)
    kernels = [a[3:] for a in torch.cuda.get_arch_list() if a.startswith("sm_")]
    # Binaries run on the same major version from their own minor version upwards (CUDA C Programming Guide, "Binary Compatibility").
    if not any(k.rstrip("af")[:-1] == str(major) and int(k.rstrip("af")[-1]) <= minor for k in kernels):
        sys.exit(1)
print(torch_version)
PY
}

# Prints the path of a Python with boto3: the trainer's own if it has it, else one of an environment made for it, so that
# nothing is installed beside the trainer's packages.
with_boto3() {
  if [ "$second_home" != s3 ]; then return; fi
  for candidate in "$1" python3 "$HOME/pixel-orch/s3-venv/bin/python"; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if "$path" -c 'import boto3' 2>/dev/null; then echo "$path"; return; fi
  done
  "$1" -m venv "$HOME/pixel-orch/s3-venv" >&2
  "$HOME/pixel-orch/s3-venv/bin/python" -m pip install -q --disable-pip-version-check 'boto3>=1.34' >&2
  echo "$HOME/pixel-orch/s3-venv/bin/python"
}

answer() {  # python, torch, why
  s3_python=$(with_boto3 "$1") || { echo "bootstrap: boto3 for --bucket could not be installed" >&2; exit 3; }
  "$1" -c 'import json, sys; print(json.dumps(dict(zip(("python", "torch", "gpu", "why", "s3_python"), sys.argv[1:]))))' \
    "$1" "$2" "$gpu" "$3" "$s3_python"
}

candidates=("$HOME/pixel-orch/venv/bin/python" /opt/pytorch/bin/python python3 python3.11 python3.12 python3.10 /opt/conda/bin/python)
find_python() {  # answers and ends, if a Python is there that can serve
  for candidate in "${candidates[@]}"; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if torch=$(can_serve "$path"); then
      echo "bootstrap: $path has torch $torch${gpu:+ with kernels for $gpu}"
      answer "$path" "$torch" "found"
      exit 0
    fi
  done
}

find_python
python=$(command -v python3) || { echo "bootstrap: there is no python3 on this machine" >&2; exit 3; }
if [ "$purpose" = own ]; then
  echo "bootstrap: no Python with torch; using $python"
  answer "$python" "" "a program of your own: nothing was installed"
  exit 0
fi

required() {  # what to install for a GPU ("" for none)
  "$python" - "$1" "$builds" <<'PY'
import json, sys
gpu, table = sys.argv[1], json.load(open(sys.argv[2]))
version = "%d.%d" % sys.version_info[:2]
capability = next((cc for name, cc in table["gpus"].items() if name in gpu), None) if gpu else "cpu"
for build in table["builds"]:
    if (capability is None or capability in build["capabilities"]) and version in build["pythons"]:
        print(build["pip"])
        sys.exit(0)
sys.exit("no torch build has kernels for %s on Python %s" % (gpu or "the CPU", version))
PY
}

if ! requirement=$(required "$gpu"); then
  if [ -z "$gpu" ] || [ -z "$allow_cpu" ]; then exit 3; fi
  echo "bootstrap: --allow-cpu: going on without the $gpu"
  gpu=""
  find_python
  requirement=$(required "") || exit 3
fi

# Debian's and Ubuntu's plain images have python3 without ensurepip: there `-m venv` fails until its package is installed.
make_venv() {
  "$1" -m venv "$2" >&2 && return
  rm -rf "$2"
  echo "bootstrap: installing python3-venv" >&2
  { sudo -n apt-get update -qq && sudo -n apt-get install -y -qq python3-venv; } >&2 || return
  "$1" -m venv "$2" >&2
}

echo "bootstrap: no Python here has a fitting torch; installing: $requirement"
make_venv "$python" "$HOME/pixel-orch/venv" || { echo "bootstrap: $python cannot make a virtual environment" >&2; exit 3; }
# shellcheck disable=SC2086  # the requirement is several words of our own table
"$HOME/pixel-orch/venv/bin/python" -m pip install -q --disable-pip-version-check $requirement 'numpy' 'pydantic>=2.6' scikit-learn pillow
answer "$HOME/pixel-orch/venv/bin/python" "$("$HOME/pixel-orch/venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))')" "installed: $requirement"
