#!/usr/bin/env bash
# Finds a Python whose torch has kernels for this machine's GPU. If there is none, creates a virtual environment and installs
# the matching build. Prints its progress. The last line is one JSON object: python, torch, gpu, why, s3_python.
#
#   bootstrap.sh ROOT bundled     the bundled trainer: needs torch and its other packages
#   bootstrap.sh ROOT own         the user's own program: installs torch, and only on a rented GPU
#   bootstrap.sh ROOT ... gpu     a rented machine with a GPU: exit code 3 if the driver does not work
#   bootstrap.sh ROOT ... s3      also finds a Python with boto3 for checkpoint_uploader.py: `s3_python` in the JSON object
#   bootstrap.sh ROOT ... cpu     continues on the CPU if the GPU cannot be used
set -euo pipefail
root=$1
purpose=$2
uploads="" allow_cpu="" is_rented_gpu=""
for word in "${@:3}"; do
  case $word in
    s3) uploads=yes ;;
    cpu) allow_cpu=yes ;;
    gpu) is_rented_gpu=yes ;;
  esac
done
# shellcheck source=SCRIPTDIR/common.sh
. "$root/bin/common.sh"
builds="$root/bin/torch_builds.json"
venv="$ours/venv"
if [ "$purpose" = bundled ]; then
  who="the bundled trainer" least=3.10
  needs=(torch numpy pydantic scikit-learn pillow)
  extras=(numpy 'pydantic>=2.6' scikit-learn pillow)
else
  who="torch" least=3.8
  needs=(torch)
  extras=(numpy)
fi

# -- the GPU

find_gpu() {  # sets gpu, or trouble. nvidia-smi reports failures on standard output, some of them with exit code 0
  local listed status=0
  gpu="" trouble=""
  if ! command -v nvidia-smi >/dev/null 2>&1; then
    trouble="nvidia-smi is not installed"
    return 1
  fi
  listed=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null) || status=$?
  listed=${listed%%$'\n'*}
  if [ "$status" != 0 ]; then
    trouble="nvidia-smi exited with code $status${listed:+: $listed}"
    return 1
  fi
  case $listed in
    "" | *failed* | *Failed* | *"No devices"* | *"Unable to"* | *"Unknown Error"* | *ERR!*)
      trouble="nvidia-smi printed: ${listed:-nothing}"
      return 1
      ;;
  esac
  gpu=$listed
}

find_gpu || true
if [ -z "$gpu" ] && [ -n "$is_rented_gpu" ]; then
  wait_for_boot
  if find_gpu; then
    :
  elif [ -n "$allow_cpu" ]; then
    echo "bootstrap: --allow-cpu: continuing without the GPU: $trouble"
  else
    give_up "the GPU of this instance cannot be used ($trouble); choose an image with the NVIDIA driver with --ami, or pass --allow-cpu to train on the CPU at the GPU's price"
  fi
fi

# -- a Python

# Prints torch's version if this Python is usable, else the reason why it is not. Without a GPU the version is read from the
# package's metadata: importing torch takes seconds, and the trainer imports it anyway.
can_serve() {
  "$1" - "$gpu" "$least" "${needs[@]}" <<'PY' 2>&1
import importlib.metadata, sys
gpu, least, needs = sys.argv[1], sys.argv[2], sys.argv[3:]
if sys.version_info[:2] < tuple(int(part) for part in least.split(".")):
    sys.exit("Python %s or later is needed" % least)
try:
    versions = {need: importlib.metadata.version(need) for need in needs}
except importlib.metadata.PackageNotFoundError as error:
    sys.exit("a package is missing: %s" % error)
if gpu:
    import torch
    if not torch.cuda.is_available():
        sys.exit("torch %s (CUDA %s) sees no GPU" % (torch.__version__, torch.version.cuda))
    major, minor = torch.cuda.get_device_capability(0)
    kernels = [a[3:] for a in torch.cuda.get_arch_list() if a.startswith("sm_")]
    # A binary runs on its own major version, from its minor version upwards (CUDA C Programming Guide, "Binary Compatibility").
    if not any(k.rstrip("af")[:-1] == str(major) and int(k.rstrip("af")[-1]) <= minor for k in kernels):
        sys.exit("torch %s has no kernels for compute capability %d.%d" % (torch.__version__, major, minor))
print(versions["torch"])
PY
}

last_line() { echo "${1##*$'\n'}"; }  # torch may print warnings first

# Prints the path of a Python with boto3: the trainer's own if it has boto3, else that of a separate virtual environment, so
# that nothing is added to the trainer's packages.
with_boto3() {
  local candidate path makers=()
  if [ -z "$uploads" ]; then return; fi
  for candidate in "$1" python3 "$ours/s3-venv/bin/python"; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if "$path" -c 'import boto3' 2>/dev/null; then echo "$path"; return; fi
  done
  while read -r path; do makers+=("$path"); done < <(pythons 3.8)
  makers+=("$1")
  make_venv "$ours/s3-venv" "${makers[@]}" || return
  pip_install "$ours/s3-venv" 'boto3>=1.34' || return
  echo "$ours/s3-venv/bin/python"
}

# The user's own command runs `python` or `python3` and must get the chosen one; the agent puts its folder first in PATH.
# Ubuntu has no `python`, and the python3 beside /usr/bin/python3.11 is another version. A symbolic link is not enough: Python
# looks for its environment beside its unresolved path.
under_both_names() {  # prints a path of this Python in a folder where both names start this Python
  local name folder=${1%/*} names="$ours/.python"
  if [ "$folder/python" -ef "$1" ] && [ "$folder/python3" -ef "$1" ]; then echo "$1"; return; fi
  mkdir -p "$names"
  for name in python python3; do
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$1" >"$names/.$name.$$"
    chmod 755 "$names/.$name.$$"
    mv "$names/.$name.$$" "$names/$name"
  done
  echo "$names/python"
}

answer() {  # PYTHON TORCH WHY: prints the JSON object and exits
  local python=$1 s3_python
  s3_python=$(with_boto3 "$1") || give_up "--bucket needs boto3, and pip cannot install it (the reason is printed above)"
  if [ "$purpose" = own ]; then python=$(under_both_names "$1"); fi
  "$1" -c 'import json, sys; print(json.dumps(dict(zip(("python", "torch", "gpu", "why", "s3_python"), sys.argv[1:]))))' \
    "$python" "$2" "$gpu" "$3" "$s3_python"
  exit 0
}

find_python() {  # prints the JSON object and exits if there is a usable Python
  local candidate path found
  for candidate in "$venv/bin/python" /opt/pytorch/bin/python python3 python3.{14,13,12,11,10} /opt/conda/bin/python; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if found=$(can_serve "$path"); then
      found=$(last_line "$found")
      echo "bootstrap: $path has torch $found${gpu:+ with kernels for $gpu}"
      answer "$path" "$found" "found"
    fi
  done
}

without_torch() {  # WHY: the user's own program may not need torch
  local python
  python=$(command -v python3) || give_up "this machine has no python3; choose an image that has one with --ami"
  echo "bootstrap: no Python has a suitable torch; using $python"
  answer "$python" "" "your own program: $1"
}

# -- installing

required() {  # PYTHON: prints what to install for the GPU ("" for none); exit code 1 if no build fits both
  "$1" - "$gpu" "$builds" <<'PY' 2>/dev/null
import json, sys
gpu, table = sys.argv[1], json.load(open(sys.argv[2]))
version = "%d.%d" % sys.version_info[:2]
capability = next((cc for name, cc in table["gpus"].items() if name in gpu), None) if gpu else "cpu"
for build in table["builds"]:
    if (capability is None or capability in build["capabilities"]) and version in build["pythons"]:
        print(build["pip"])
        sys.exit(0)
sys.exit(1)
PY
}

on_the_cpu() {  # WHY: prints the JSON object and exits if there is a Python that is usable without the GPU
  echo "bootstrap: --allow-cpu: continuing without the $gpu: $1"
  gpu=""
  find_python
}

no_torch() {  # WHY: exits; with an error, unless the CPU is allowed and either torch works on it or the program is the user's own
  if [ -n "$gpu" ] && [ -n "$allow_cpu" ]; then on_the_cpu "$1"; fi
  if [ "$purpose" = own ] && [ -n "$allow_cpu" ]; then without_torch "$1"; fi
  give_up "$1"
}

install_torch() {  # prints the JSON object and exits, or sets trouble: no build fits the GPU, or the build cannot use the GPU
  local python requirement found words makers=() versions=""
  while read -r python; do
    versions+="${versions:+, }$(version_of "$python")"
    if required "$python" >/dev/null; then makers+=("$python"); fi
  done < <(pythons "$least")
  if [ -z "$versions" ]; then too_old "$who" "$least"; fi
  if [ ${#makers[@]} = 0 ]; then
    trouble="no torch build has kernels for ${gpu:-the CPU} on Python $versions; choose another --instance"
    return
  fi
  make_venv "$venv" "${makers[@]}" || no_torch "${makers[0]} cannot make a virtual environment (the reason is printed above)"
  requirement=$(required "$venv/bin/python") || no_torch "no torch build fits the Python of $venv"
  echo "bootstrap: no Python on this machine has a suitable torch; installing: $requirement"
  read -ra words <<<"$requirement"
  pip_install "$venv" "${words[@]}" "${extras[@]}" || no_torch "pip cannot install $requirement (the reason is printed above)"
  if found=$(can_serve "$venv/bin/python"); then
    answer "$venv/bin/python" "$(last_line "$found")" "installed: $requirement"
  fi
  trouble="$requirement was installed and cannot be used${gpu:+ on $gpu}: $(last_line "$found")"
  if [ -n "$gpu" ]; then trouble+="; the image's driver may be too old: choose another image with --ami"; fi
}

find_python
if [ "$purpose" = own ] && [ -z "$is_rented_gpu" ]; then without_torch "nothing was installed"; fi
install_torch
if [ -n "$gpu" ] && [ -n "$allow_cpu" ]; then
  on_the_cpu "$trouble"
  install_torch
fi
no_torch "$trouble${gpu:+, or pass --allow-cpu to train on the CPU}"
