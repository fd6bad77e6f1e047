#!/usr/bin/env bash
# Finds a Python whose torch has kernels for this machine's GPU; where there is none, makes a virtual environment and installs
# the right build. Prints what it does; its last line is one JSON object: python, torch, gpu, why, s3_python.
#
#   bootstrap.sh ROOT bundled     the bundled trainer: torch and its other packages are needed
#   bootstrap.sh ROOT own         a program of the user's own: torch is installed on a rented GPU only, nothing else is
#   bootstrap.sh ROOT ... gpu     a rented machine with a GPU: without a driver that works, exit code 3
#   bootstrap.sh ROOT ... s3      also a Python with boto3, for checkpoint_uploader.py: its path is `s3_python` in the answer
#   bootstrap.sh ROOT ... cpu     go on, on the CPU, where the GPU cannot be used
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

find_gpu() {  # sets gpu, or trouble. nvidia-smi tells failures on standard output, some of them with exit code 0
  local said status=0
  gpu="" trouble=""
  if ! command -v nvidia-smi >/dev/null 2>&1; then
    trouble="nvidia-smi is not there"
    return 1
  fi
  said=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null) || status=$?
  said=${said%%$'\n'*}
  if [ "$status" != 0 ]; then
    trouble="nvidia-smi ended with $status${said:+: $said}"
    return 1
  fi
  case $said in
    "" | *failed* | *Failed* | *"No devices"* | *"Unable to"* | *"Unknown Error"* | *ERR!*)
      trouble="nvidia-smi says: ${said:-nothing}"
      return 1
      ;;
  esac
  gpu=$said
}

find_gpu || true
if [ -z "$gpu" ] && [ -n "$is_rented_gpu" ]; then
  wait_for_boot
  if find_gpu; then
    :
  elif [ -n "$allow_cpu" ]; then
    echo "bootstrap: --allow-cpu: going on without the GPU: $trouble"
  else
    give_up "the GPU of this instance cannot be used ($trouble), and its CPU would train at the GPU's price; name an image with the NVIDIA driver with --ami, or insist with --allow-cpu"
  fi
fi

# -- a Python

# Prints torch's version if this Python can serve, else why not. Without a GPU the version is read from the package's metadata:
# importing torch takes seconds that the trainer pays anyway.
can_serve() {
  "$1" - "$gpu" "$least" "${needs[@]}" <<'PY' 2>&1
import importlib.metadata, sys
gpu, least, needs = sys.argv[1], sys.argv[2], sys.argv[3:]
if sys.version_info[:2] < tuple(int(part) for part in least.split(".")):
    sys.exit("Python %s or later is needed" % least)
try:
    versions = {need: importlib.metadata.version(need) for need in needs}
except importlib.metadata.PackageNotFoundError as error:
    sys.exit("it lacks a package: %s" % error)
if gpu:
    import torch
    if not torch.cuda.is_available():
        sys.exit("torch %s (CUDA %s) sees no GPU" % (torch.__version__, torch.version.cuda))
    major, minor = torch.cuda.get_device_capability(0)
    kernels = [a[3:] for a in torch.cuda.get_arch_list() if a.startswith("sm_")]
    # Binaries run on the same major version from their own minor version upwards (CUDA C Programming Guide, "Binary Compatibility").
    if not any(k.rstrip("af")[:-1] == str(major) and int(k.rstrip("af")[-1]) <= minor for k in kernels):
        sys.exit("torch %s has no kernels for compute capability %d.%d" % (torch.__version__, major, minor))
print(versions["torch"])
PY
}

last_line() { echo "${1##*$'\n'}"; }  # torch may warn before

# Prints the path of a Python with boto3: the trainer's own if it has it, else one of an environment made for it, so that
# nothing is installed beside the trainer's packages.
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

# A command of the user's own says `python` or `python3` and means the one that was chosen; the agent puts its folder first in PATH.
# Ubuntu has no `python`, and beside /usr/bin/python3.11 lies a python3 that is another. A link would not do: Python looks beside
# its path, unresolved, for its environment.
under_both_names() {  # prints a path of this Python in whose folder both names are this Python
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

answer() {  # python, torch, why: and ends
  local python=$1 s3_python
  s3_python=$(with_boto3 "$1") || give_up "boto3, which --bucket needs, could not be installed (why: see above)"
  if [ "$purpose" = own ]; then python=$(under_both_names "$1"); fi
  "$1" -c 'import json, sys; print(json.dumps(dict(zip(("python", "torch", "gpu", "why", "s3_python"), sys.argv[1:]))))' \
    "$python" "$2" "$gpu" "$3" "$s3_python"
  exit 0
}

find_python() {  # answers and ends, if a Python is there that can serve
  local candidate path said
  for candidate in "$venv/bin/python" /opt/pytorch/bin/python python3 python3.{14,13,12,11,10} /opt/conda/bin/python; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if said=$(can_serve "$path"); then
      said=$(last_line "$said")
      echo "bootstrap: $path has torch $said${gpu:+ with kernels for $gpu}"
      answer "$path" "$said" "found"
    fi
  done
}

without_torch() {  # a program of one's own may need none
  local python
  python=$(command -v python3) || give_up "there is no python3 on this machine; name an image that has one with --ami"
  echo "bootstrap: no Python with a fitting torch; using $python"
  answer "$python" "" "a program of your own: $1"
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

on_the_cpu() {  # why: answers and ends, if a Python is there that can serve without the GPU
  echo "bootstrap: --allow-cpu: going on without the $gpu: $1"
  gpu=""
  find_python
}

no_torch() {  # why: the end, unless the CPU is allowed and has a torch, or a program of one's own goes on without one
  if [ -n "$gpu" ] && [ -n "$allow_cpu" ]; then on_the_cpu "$1"; fi
  if [ "$purpose" = own ] && [ -n "$allow_cpu" ]; then without_torch "$1"; fi
  give_up "$1"
}

install_torch() {  # answers and ends, or sets trouble: no build fits the GPU, or the GPU cannot be used by it
  local python requirement said words makers=() versions=""
  while read -r python; do
    versions+="${versions:+, }$(version_of "$python")"
    if required "$python" >/dev/null; then makers+=("$python"); fi
  done < <(pythons "$least")
  if [ -z "$versions" ]; then too_old "$who" "$least"; fi
  if [ ${#makers[@]} = 0 ]; then
    trouble="no torch build has kernels for ${gpu:-the CPU} on Python $versions; choose another --instance"
    return
  fi
  make_venv "$venv" "${makers[@]}" || no_torch "${makers[0]} cannot make a virtual environment (why: see above)"
  requirement=$(required "$venv/bin/python") || no_torch "no torch build fits the Python of $venv"
  echo "bootstrap: no Python here has a fitting torch; installing: $requirement"
  read -ra words <<<"$requirement"
  pip_install "$venv" "${words[@]}" "${extras[@]}" || no_torch "pip cannot install $requirement (why: see above)"
  if said=$(can_serve "$venv/bin/python"); then
    answer "$venv/bin/python" "$(last_line "$said")" "installed: $requirement"
  fi
  trouble="$requirement was installed and cannot be used${gpu:+ on $gpu}: $(last_line "$said")"
  if [ -n "$gpu" ]; then trouble+="; the image's driver may be too old: name another one with --ami"; fi
}

find_python
if [ "$purpose" = own ] && [ -z "$is_rented_gpu" ]; then without_torch "nothing was installed"; fi
install_torch
if [ -n "$gpu" ] && [ -n "$allow_cpu" ]; then
  on_the_cpu "$trouble"
  install_torch
fi
no_torch "$trouble${gpu:+, or insist on the CPU with --allow-cpu}"
