#!/usr/bin/env bash
# Finds a Python whose torch has kernels for this machine's GPU. If there is none, creates a virtual environment and installs
# the matching build. Prints its progress. The last line is one JSON object: python, torch, gpu, why, s3_python.
#
#   bootstrap.sh ROOT bundled     the bundled trainer: needs torch and its other packages
#   bootstrap.sh ROOT own         the user's own program: installs torch, and only on a rented GPU
#   bootstrap.sh ROOT image       a program that runs in a Docker image: needs a Python for the agent, and no torch
#   bootstrap.sh ROOT ... gpu     a rented machine with a GPU: exit code 3 if the driver does not work
#   bootstrap.sh ROOT ... s3      also finds a Python with boto3 for checkpoint_uploader.py: `s3_python` in the JSON object
#   bootstrap.sh ROOT ... cpu     continues on the CPU if the GPU cannot be used
#   bootstrap.sh ROOT look SINCE  looks at the GPU only, while a trainer runs or after it: prints its name, or what is broken; of
#                                 the kernel's words those from SINCE on (seconds since the boot). 75: the GPU, 3: its driver
#
# Exit code 3: this cannot work, on another machine neither. 75: the GPU of this machine is broken, and another machine helps.
set -euo pipefail
root=$1
purpose=$2
uploads="" allow_cpu="" is_rented_gpu="" since=${3:-0}
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
BROKEN=75
SMI_S=60  # nvidia-smi loads the driver of eight GPUs in half of that
if [ "$purpose" = bundled ]; then
  who="the bundled trainer" least=3.10
  needs=(torch numpy pydantic scikit-learn pillow)
  extras=(numpy 'pydantic>=2.6' scikit-learn pillow)
else
  who="torch" least=3.8
  needs=(torch)
  extras=(numpy)
fi

# -- what nvidia-smi says

# It prints failures on standard output or error, some of them with exit code 0, and warnings before or after the names. The exit
# codes are those of its manual page; 18 is NVML_ERROR_LIB_RM_VERSION_MISMATCH.

names_in() {  # TEXT: prints the names of GPUs: lines that are neither a warning nor an error
  local line unknown=""
  while IFS= read -r line; do
    case $line in
      "" | [Ww][Aa][Rr][Nn]* | *[Ff]ailed* | *[Ee]rror* | *ERR!* | *NVIDIA-SMI* | *: | *. | *:\ * | \[*) ;;
      "No devices"* | "Unable to"*) ;;
      NVIDIA\ * | Tesla\ * | GRID\ * | Quadro\ * | [ABHLPTV][0-9]*) echo "$line" ;;
      *) unknown=${unknown:-$line} ;;
    esac
  done <<<"$1"
  if [ -n "$unknown" ]; then echo "$unknown"; fi  # behind those whose maker is known
}

meaning_of() {  # CODE TEXT: prints works, broken (the GPU), hangs, stale (the driver), unloaded (it too) or fails
  case $1:$2 in
    "$OVERDUE":*) echo hangs ;;
    *"Insufficient Permissions"*) echo fails ;;
    8:* | 10:* | 15:* | *"is lost"* | *"fallen off the bus"* | *"requires reset"* | *"Unknown Error"* | *ERR!*) echo broken ;;
    *"Unable to determine the device handle"* | *"ncorrectable ECC"*) echo broken ;;
    18:* | *"version mismatch"*) echo stale ;;
    9:* | *"communicate with the NVIDIA driver"* | *"Driver Not Loaded"*) echo unloaded ;;
    0:* | 14:*) if [ -n "$(names_in "$2")" ]; then echo works; else echo fails; fi ;;  # 14: the infoROM is corrupted
    *) echo fails ;;
  esac
}

find_gpu() {  # sets gpu, or trouble; sets meaning
  local listed line status=0
  gpu="" trouble="" meaning=fails
  if ! command -v nvidia-smi >/dev/null 2>&1; then
    trouble="nvidia-smi is not installed"
    return 1
  fi
  listed=$(within "$SMI_S" nvidia-smi nvidia-smi --query-gpu=name --format=csv,noheader) || status=$?
  meaning=$(meaning_of "$status" "$listed")
  if [ "$meaning" = works ]; then
    gpu=$(names_in "$listed")
    gpu=${gpu%%$'\n'*}
    while IFS= read -r line; do
      case $line in [Ww][Aa][Rr][Nn]*) say "nvidia-smi warns: $line" ;; esac
    done <<<"$listed"
    look_closer || gpu=""
  elif [ "$meaning" = hangs ]; then
    trouble=${listed##*$'\n'}
  else
    while IFS= read -r line && [ -z "$line" ]; do :; done <<<"$listed"
    if [ "$status" = 0 ]; then trouble="nvidia-smi printed: ${line:-nothing}"; else trouble="nvidia-smi exited with code $status${line:+: $line}"; fi
  fi
  [ -n "$gpu" ]
}

look_closer() {  # sets capability; returns 1 with trouble and meaning if nothing can be trained on the GPU. An old driver has no answer
  local rows cc mig ecc status=0 query=compute_cap,mig.mode.current,ecc.errors.uncorrected.volatile.total
  capability=""
  rows=$(within "$SMI_S" nvidia-smi nvidia-smi --query-gpu="$query" --format=csv,noheader) || status=$?
  if [ "$status" = "$OVERDUE" ]; then
    trouble=${rows##*$'\n'} meaning=hangs
    return 1
  fi
  while IFS=', ' read -r cc mig ecc; do
    if [[ ! $cc =~ ^[0-9]+\.[0-9]$ ]]; then continue; fi
    capability=${capability:-$cc}
    if [[ $ecc =~ ^[1-9][0-9]*$ ]]; then
      trouble="nvidia-smi counts $ecc uncorrectable ECC errors since the boot" meaning=broken
      return 1
    fi
    if [ "$mig" = Enabled ] && [ "$purpose" != look ]; then
      mind_mig || return 1
      return 0
    fi
  done <<<"$rows"
}

mind_mig() {  # MIG divides a GPU: a program sees one slice, and nothing where none has been made
  local listed slice
  listed=$(within "$SMI_S" nvidia-smi nvidia-smi -L) || true
  if [[ $listed =~ MIG\ ([0-9]+g\.[0-9]+gb[^[:space:]]*) ]]; then
    slice=${BASH_REMATCH[1]}
    say "MIG is on: the trainer gets one slice, $slice, of the $gpu; \`sudo nvidia-smi -mig 0\` in the image turns it off"
    gpu="$gpu MIG $slice"
    return 0
  fi
  say "MIG is on and no slice is made, so that no program sees the $gpu: turning it off"
  step "$SMI_S" "nvidia-smi -mig 0" as_root nvidia-smi -mig 0 || true
  listed=$(within "$SMI_S" nvidia-smi nvidia-smi --query-gpu=mig.mode.current --format=csv,noheader) || true
  if [[ $listed != *Enabled* ]]; then return 0; fi
  trouble="MIG is on without a slice, and \`nvidia-smi -mig 0\` does not turn it off" meaning=fails
  return 1
}

kernel_fault() {  # [SINCE]: prints the kernel's last line about a GPU that is broken; the other Xids are faults of programs
  local line found="" broken=" 48 62 64 74 79 94 95 119 120 140 "
  while IFS= read -r line; do
    if [[ $line =~ ^\[\ *([0-9]+)\. && ${BASH_REMATCH[1]} -lt ${1:-0} ]]; then continue; fi
    if [[ $line =~ NVRM:\ Xid\ \(PCI:[^\)]*\):\ ([0-9]+), && $broken == *" ${BASH_REMATCH[1]} "* ]] ||
      [[ $line == *NVRM*"fallen off the bus"* ]]; then found=$line; fi
  done < <(within 20 dmesg as_root dmesg)
  if [ -n "$found" ]; then echo "${found#*] }"; fi
}

# -- the GPU

# An upgrade in the background replaces the driver's files, and the kernel keeps the old module. Nothing uses the GPU yet: the module
# can be loaded anew within seconds. A reboot takes minutes, and another machine starts from the same image.
reload_driver() {
  local users=(nvidia-persistenced nvidia-fabricmanager nvidia-dcgm dcgm)
  if ! command -v modprobe >/dev/null 2>&1; then return 1; fi
  say "$trouble; loading the driver anew"
  step 60 "systemctl stop" as_root systemctl stop "${users[@]}" || true
  step 60 rmmod as_root rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia_peermem nvidia || true
  step 120 "modprobe nvidia" as_root modprobe -a nvidia nvidia_uvm || true
  step 60 "systemctl start" as_root systemctl start "${users[@]:0:2}" || true
  find_gpu
}

# Upgrades in the background would replace the driver under the trainer. Units that are not there are no failure; those that run
# are asked to end, which they do after the package that they install.
stop_upgrades() {
  local units=(apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service unattended-upgrades.service
    dnf-automatic.timer dnf-automatic-install.timer dnf-automatic-download.timer yum-cron.service packagekit.service)
  if ! command -v systemctl >/dev/null 2>&1; then return; fi
  within 30 "systemctl mask" as_root systemctl mask --runtime "${units[@]}" >/dev/null || true
  within 30 "systemctl stop" as_root systemctl stop --no-block "${units[@]}" >/dev/null || true
}

look() {  # what the agent asks for when a trainer fails or hangs: what is broken now worked before
  local fault
  if ! find_gpu; then
    case $meaning in broken | hangs) give_up "$trouble" "$BROKEN" ;; *) give_up "$trouble" ;; esac
  fi
  fault=$(kernel_fault "$since")
  if [ -n "$fault" ]; then give_up "the kernel says: $fault" "$BROKEN"; fi
  echo "$gpu"
  exit 0
}

need_gpu() {  # returns if it works, or if the CPU will do
  local fault
  if find_gpu; then return; fi
  if [ "$meaning" != broken ]; then
    wait_for_boot
    if find_gpu; then return; fi
  fi
  case $meaning in
    stale | unloaded) if reload_driver; then say "the driver works now"; return; fi ;;
  esac
  fault=$(kernel_fault)
  trouble+=${fault:+; the kernel says: $fault}
  if [ -n "$fault" ]; then meaning=broken; fi
  case $meaning in
    broken) give_up "the GPU of this machine is broken ($trouble); another machine is needed" "$BROKEN" ;;
    hangs) give_up "the GPU of this machine, or its driver, hangs ($trouble); another machine is needed" "$BROKEN" ;;
  esac
  if [ -n "$allow_cpu" ]; then
    say "--allow-cpu: continuing without the GPU: $trouble"
    return
  fi
  give_up "the GPU of this instance cannot be used ($trouble); choose an image with the NVIDIA driver with --ami, or pass --allow-cpu to train on the CPU at the GPU's price"
}

if [ "$purpose" = look ]; then look; fi
if [ -n "$is_rented_gpu" ]; then
  stop_upgrades
  need_gpu
else
  find_gpu || true
fi

# -- a Python

# Prints torch's version if this Python is usable, else the reason why it is not. Without a GPU the version is read from the
# package's metadata: importing torch takes seconds, and the trainer imports it anyway. From a disk that AWS loads as it is read,
# the first import takes minutes.
can_serve() { within 300 "${1##*/} (import torch)" ask_for_torch "$1"; }

ask_for_torch() {
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
    if within 120 "${path##*/} (import boto3)" "$path" -c 'import boto3' >/dev/null; then echo "$path"; return; fi
  done
  while read -r path; do makers+=("$path"); done < <(pythons 3.8)
  makers+=("$1")
  make_venv "$ours/s3-venv" "${makers[@]}" || return
  pip_install "$ours/s3-venv" 'boto3>=1.34' || return
  echo "$ours/s3-venv/bin/python"
}

# The user's own command runs `python`, `pip` or `torchrun`, and gets those of the run's own environment: what it installs
# changes nothing for another run. The agent puts its folders first in PATH.
own_environment() {  # PYTHON: prints a JSON object: python, path_first
  mkdir -p "$root"
  within 120 "run_environment.py" "$1" -E "$root/bin/run_environment.py" "$root/env"
}

answer() {  # PYTHON TORCH WHY: prints the JSON object and exits
  local own="" s3_python
  s3_python=$(with_boto3 "$1") || give_up "--bucket needs boto3, and pip cannot install it: $(because)"
  if [ "$purpose" = own ]; then
    own=$(own_environment "$1") || give_up "cannot make the run's own environment in $root/env: $(last_line "$own")"
    own=$(last_line "$own")
  fi
  within 60 "${1##*/}" "$1" -E -c 'import json, sys
told = dict(zip(("python", "torch", "gpu", "why", "s3_python"), sys.argv[1:]))
print(json.dumps(dict(told, **json.loads(sys.argv[6] or "{}"))))' "$1" "$2" "$gpu" "$3" "$s3_python" "$own"
  exit 0
}

find_python() {  # prints the JSON object and exits if there is a usable Python
  local candidate path found
  for candidate in "$venv/bin/python" /opt/pytorch/bin/python python3 python3.{14,13,12,11,10} /opt/conda/bin/python; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if found=$(can_serve "$path"); then
      found=$(last_line "$found")
      say "$path has torch $found${gpu:+ with kernels for $gpu}"
      answer "$path" "$found" "found"
    fi
  done
}

without_torch() {  # WHY: the user's own program may not need torch
  local python
  python=$(command -v python3) || give_up "this machine has no python3; choose an image that has one with --ami"
  say "no Python has a suitable torch; using $python"
  answer "$python" "" "your own program: $1"
}

# -- installing

required() { within 60 "${1##*/}" ask_for_build "$1"; }  # PYTHON: prints what to install; exit code 1 if no build fits both

ask_for_build() {
  "$1" - "$gpu" "$builds" "${capability:-}" <<'PY' 2>/dev/null
import json, sys
gpu, table = sys.argv[1], json.load(open(sys.argv[2]))
version = "%d.%d" % sys.version_info[:2]
capability = next((cc for name, cc in table["gpus"].items() if name in gpu), sys.argv[3] or None) if gpu else "cpu"
def fits(build):
    if capability is None or capability in build["capabilities"]:
        return True
    major, _, minor = capability.partition(".")
    return any(c.split(".")[0] == major and c.split(".")[1] <= minor for c in build["capabilities"] if c != "cpu")
for build in table["builds"]:
    if fits(build) and version in build["pythons"]:
        print(build["pip"])
        sys.exit(0)
sys.exit(1)
PY
}

on_the_cpu() {  # WHY: prints the JSON object and exits if there is a Python that is usable without the GPU
  say "--allow-cpu: continuing without the $gpu: $1"
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
  make_venv "$venv" "${makers[@]}" || no_torch "${makers[0]} cannot make a virtual environment: $(because)"
  requirement=$(required "$venv/bin/python") || no_torch "no torch build fits the Python of $venv"
  say "no Python on this machine has a suitable torch; installing: $requirement"
  read -ra words <<<"$requirement"
  pip_install "$venv" "${words[@]}" "${extras[@]}" || no_torch "pip cannot install $requirement: $(because)"
  if found=$(can_serve "$venv/bin/python"); then
    answer "$venv/bin/python" "$(last_line "$found")" "installed: $requirement"
  fi
  trouble="$requirement was installed and cannot be used${gpu:+ on $gpu}: $(last_line "$found")"
  if [ -n "$gpu" ]; then trouble+="; the image's driver may be too old: choose another image with --ami"; fi
}

if [ "$purpose" = image ]; then
  python=$(command -v python3) || give_up "this machine has no python3; choose an image that has one with --ami"
  answer "$python" "" "the program runs in a Docker image"
fi
find_python
if [ "$purpose" = own ] && [ -z "$is_rented_gpu" ]; then without_torch "nothing was installed"; fi
install_torch
if [ -n "$gpu" ] && [ -n "$allow_cpu" ]; then
  on_the_cpu "$trouble"
  install_torch
fi
no_torch "$trouble${gpu:+, or pass --allow-cpu to train on the CPU}"
