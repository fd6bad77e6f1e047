# shellcheck shell=bash
# Shared by bootstrap.sh and data.sh: finding Pythons by version, and making virtual environments on a machine that has just booted.

ours="$HOME/pixel-orch"
me=${0##*/}
me=${me%.sh}
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)

give_up() {  # MESSAGE: one line with the cause and what to do
  echo "$me: $1" >&2
  exit 3
}

is_at_least() {  # PYTHON 3.10
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] < tuple(int(part) for part in sys.argv[1].split(".")))' "$2" 2>/dev/null
}

version_of() {  # PYTHON
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

pythons() {  # 3.10: prints the paths of this machine's Pythons of that version or later, newest first
  local name path
  for name in python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 python3; do
    path=$(command -v "$name" 2>/dev/null) || continue
    if is_at_least "$path" "$1"; then echo "$path"; fi
  done
}

too_old() {  # WHO 3.10: exits with an error that names the version of this machine
  local path
  path=$(command -v python3) || give_up "this machine has no python3; choose an image that has one with --ami"
  give_up "$1 needs Python $2 or later, and this image has $(version_of "$path"); install a newer one, or choose another image with --ami"
}

wait_for_boot() {  # waits until cloud-init has finished (300 s at most): before that it may hold apt's locks or load the driver
  local cloud=${PIXEL_ORCH_VAR_LIB_CLOUD:-/var/lib/cloud} turn
  for ((turn = 0; turn < 150; turn++)); do
    if [ ! -d "$cloud" ] || [ -e "$cloud/instance/boot-finished" ]; then return 0; fi
    sleep 2
  done
}

as_root() {  # an image without sudo logs in as root
  if command -v sudo >/dev/null 2>&1; then sudo -n "$@"; else "$@"; fi
}

has_pip() {  # VENV: an environment whose creation was interrupted has bin/python but no pip
  "$1/bin/python" -m pip --version >/dev/null 2>&1
}

fresh_venv() {  # VENV PYTHON
  rm -rf "$1"
  "$2" -m venv "$1" && has_pip "$1"
}

# The plain images of Debian and Ubuntu have python3 without ensurepip: `-m venv` fails until its package is installed. The
# upgrades of the first boot hold the lock of apt's lists for minutes, and DPkg::Lock::Timeout does not apply to that lock.
venv_after_apt() {  # VENV PYTHON...
  local venv=$1 python turn updated until=$((SECONDS + 600))
  shift
  command -v apt-get >/dev/null 2>&1 || return 1
  wait_for_boot
  for ((turn = 0; turn < 20 && SECONDS < until; turn++)); do
    updated=yes
    as_root "${apt[@]}" update || updated=""
    for python in "$@"; do
      if as_root "${apt[@]}" install -y "${python##*/}-venv" && fresh_venv "$venv" "$python"; then return 0; fi
    done
    if [ -n "$updated" ]; then return 1; fi
    sleep 10
  done
  return 1
}

make_venv() {  # VENV PYTHON...: makes a virtual environment with pip from the first of these Pythons that can make one
  local venv=$1 python
  shift
  mkdir -p "$ours"
  (
    # bootstrap.sh and data.sh run in parallel, and two apt-get processes would block each other.
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if has_pip "$venv"; then exit 0; fi
    for python in "$@"; do
      if fresh_venv "$venv" "$python"; then exit 0; fi
    done
    echo "$me: $1 cannot make a virtual environment; installing its venv package" >&2
    venv_after_apt "$venv" "$@" 9>&-
  ) 9>"$ours/.venv.lock" >&2
}

pip_install() {  # VENV PACKAGE...
  "$1/bin/python" -m pip install -q --disable-pip-version-check "${@:2}" >&2
}
