# shellcheck shell=bash
# Shared by bootstrap.sh and data.sh: running programs within a time limit, finding Pythons by version, and making virtual
# environments on a machine that has just booted.

unset PYTHONHOME PYTHONINSPECT PYTHONIOENCODING  # of a start file: they are for one Python, or for a person

ours="$HOME/pixel-orch"
me=${0##*/}
me=${me%.sh}
work="$ours/.$me.$$"  # what the programs print, while they run
OVERDUE=124  # exit code of `within` and `step` when the time was up
TELL_EVERY_MS=${PIXEL_ORCH_TELL_EVERY_MS:-20000}  # the sign of life of a long step
spools=0

mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
trap '' PIPE  # a connection that is cut must not end the script between two programs; the next bootstrap waits for this one
exec {quiet}<> <(:)  # nothing is ever written to it: reading it waits, without a process

give_up() {  # MESSAGE [CODE]: one line with the cause and what to do
  say "$1"
  exit "${2:-3}"
}

say() { echo "$me: $1" >&2 || true; }

# -- programs within a time limit

# A program that waits for a driver, a lock or a network can wait for ever, and in uninterruptible sleep not even SIGKILL ends
# it. So no program is waited for: it is looked at until it has ended or its time is up; then it is killed, and left behind if it
# does not end. Its output goes to a file: what is left behind holds no pipe open that someone reads to its end.
# PIXEL_ORCH_LIMITS ("nvidia-smi=1 pip=2") has other limits in seconds, by the first word of the name; for tests.

read_uptime() {  # sets now_ms: $SECONDS and `date` jump when the clock is set
  local up
  read -r up _ </proc/uptime
  now_ms=$((10#${up%.*} * 1000 + 10#${up#*.} * 10))
}

pause() { read -rt "$1" -u "$quiet" || true; }  # SECONDS

last_words() {  # FILE: prints its last line, and of a progress bar the newest state
  local line words=""
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%$'\r'}
    line=${line##*$'\r'}
    if [[ $line == *[![:space:]]* ]]; then words=$line; fi
  done < <(tail -c 4096 "$1" 2>/dev/null || cat "$1")
  words=${words//[[:cntrl:]]/ }
  echo "${words:0:300}"
}

is_alive() {  # PID: whether its process group has a member that is no zombie, of any user
  local file line fields
  for file in /proc/[0-9]*/stat; do
    line=""
    read -r line 2>/dev/null <"$file" || true
    read -ra fields <<<"${line##*) }"  # state, parent, group
    if [ "${fields[2]:-}" = "$1" ] && [ "${fields[0]}" != Z ]; then return 0; fi
  done 2>/dev/null
  return 1
}

end_group() {  # PID: ends a process group; returns 1 if it does not end. sudo, which ends those of root, is not waited for
  local turn signal
  for signal in TERM KILL; do
    kill "-$signal" -- "-$1" 2>/dev/null || true
    for ((turn = 0; turn < 20; turn++)); do
      is_alive "$1" || return 0
      if [ "$turn" = 2 ]; then as_root kill "-$signal" -- "-$1" >/dev/null 2>&1 </dev/null & fi
      pause 0.1
    done
  done
  return 1
}

# A function that is called as the command sees the local variables here in the place of its own script's.
attend() {  # SECONDS NAME COMMAND...: runs it with its output in "$spool"; sets why and returns the exit code if it fails
  local limit_s=$1 title=$2 pid began_ms told_ms status nap_ms=5 left="" word
  shift 2
  for word in ${PIXEL_ORCH_LIMITS:-}; do
    if [ "${word%=*}" = "${title%% *}" ]; then limit_s=${word#*=}; fi
  done
  spool="$work/$BASHPID.$((++spools))"
  if ! : >"$spool"; then why="$title: cannot write to $work"; return 1; fi
  read_uptime
  began_ms=$now_ms told_ms=$now_ms
  set -m  # in a process group of its own
  # shellcheck disable=SC2015  # the code of "$@" is wanted, and `set -e` must not end the subshell
  (trap - PIPE EXIT; "$@" && status=0 || status=$?; echo "$status" >"$spool.code") >"$spool" 2>&1 </dev/null 9>&- &
  pid=$!
  set +m
  disown "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do
    read_uptime
    if [ $((now_ms - began_ms)) -ge $((limit_s * 1000)) ]; then
      end_group "$pid" || left=", and it cannot be killed: it hangs in the kernel"
      why="$title did not end within $limit_s s$left; $(its_words)"
      return "$OVERDUE"
    fi
    if [ $((now_ms - told_ms)) -ge "$TELL_EVERY_MS" ]; then
      told_ms=$now_ms
      say "$title: $(((now_ms - began_ms) / 1000)) s so far; $(its_words)"
    fi
    pause "$(printf '0.%03d' "$nap_ms")"
    nap_ms=$((nap_ms < 200 ? nap_ms * 2 : 200))
  done
  status=$(cat "$spool.code" 2>/dev/null) || true
  status=${status:-137}
  if [ "$status" != 0 ]; then why="$title ended with exit code $status; $(its_words)"; fi
  return "$status"
}

its_words() {
  local words
  words=$(last_words "$spool")
  echo "${words:+its last output: }${words:-it printed nothing}"
}

within() {  # SECONDS NAME COMMAND...: a short program; prints its output, and why it failed if its time was up
  local status=0
  attend "$@" || status=$?
  cat "$spool"
  if [ "$status" = "$OVERDUE" ]; then echo "$why"; fi
  return "$status"
}

step() {  # SECONDS NAME COMMAND...: a long program; says that it runs, and the end of its output if it fails
  local status=0
  say "$2"
  attend "$@" || status=$?
  if [ "$status" != 0 ]; then
    tail -n 30 "$spool" >&2 2>/dev/null || cat "$spool" >&2
    say "$why"
    echo "$why" >"$work/why" || true
  fi
  return "$status"
}

because() {  # prints why the last step failed, also one in a subshell
  cat "$work/why" 2>/dev/null || echo "the reason is printed above"
}

as_root() {  # an image without sudo logs in as root
  if command -v sudo >/dev/null 2>&1; then sudo -n "$@"; else "$@"; fi
}

# -- the machine

# The proxies of /etc/environment, also where the login did not read it. Programs ask the instance metadata, and what runs on this
# machine, without a proxy. sudo removes these variables, so that apt-get gets them as arguments of `env`.
take_proxies() {
  local line name value etc=${PIXEL_ORCH_ETC_SSH:-/etc/ssh}
  proxies=()
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line#export }
    name=${line%%=*} value=${line#*=}
    case $name in
      http_proxy | https_proxy | all_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | ALL_PROXY | NO_PROXY) ;;
      *) continue ;;
    esac
    value=${value%%[[:space:]]#*}
    value=${value%"${value##*[![:space:]]}"}  # without blanks at its end
    value=${value#[\"\']}
    value=${value%[\"\']}
    if [ -z "${!name:-}" ]; then export "$name=$value"; fi
  done < <(cat "${etc%/*}/environment" 2>/dev/null)
  if [ -z "${http_proxy:-}${https_proxy:-}${all_proxy:-}${HTTP_PROXY:-}${HTTPS_PROXY:-}${ALL_PROXY:-}" ]; then return; fi
  value=${no_proxy:-${NO_PROXY:-}}
  for name in 169.254.169.254 '[fd00:ec2::254]' 169.254.170.2 localhost 127.0.0.1 ::1; do
    case ",$value," in *",$name,"*) ;; *) value+="${value:+,}$name" ;; esac
  done
  export no_proxy=$value NO_PROXY=$value
  for name in http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY; do
    if [ -n "${!name:-}" ]; then proxies+=("$name=${!name}"); fi
  done
}
take_proxies
apt=(env ${proxies[@]+"${proxies[@]}"} DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  apt-get -qq -o DPkg::Lock::Timeout=300)

wait_for_boot() {  # waits until cloud-init has finished (300 s at most): before that it may hold apt's locks or load the driver
  local cloud=${PIXEL_ORCH_VAR_LIB_CLOUD:-/var/lib/cloud} turn
  for ((turn = 0; turn < 150; turn++)); do
    if [ ! -d "$cloud" ] || [ -e "$cloud/instance/boot-finished" ]; then return 0; fi
    if [ $((turn % 10)) = 0 ]; then say "waiting for cloud-init to finish: $((turn * 2)) s so far"; fi
    sleep 2
  done
}

# -- Pythons

is_at_least() {  # PYTHON 3.10
  within 30 "${1##*/}" "$1" -c 'import sys; sys.exit(sys.version_info[:2] < tuple(int(part) for part in sys.argv[1].split(".")))' \
    "$2" >/dev/null
}

version_of() {  # PYTHON
  within 30 "${1##*/}" "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
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

# -- virtual environments. Debian 12 and Ubuntu 24.04 let pip install into an environment only (PEP 668)

has_pip() {  # VENV: an environment whose creation was interrupted has bin/python but no pip
  [ -x "$1/bin/python" ] && within 120 "pip --version" "$1/bin/python" -m pip --version >/dev/null
}

fresh_venv() {  # VENV PYTHON
  rm -rf "$1"
  step 300 "${2##*/} -m venv" "$2" -m venv "$1" && has_pip "$1"
}

# The plain images of Debian and Ubuntu have python3 without ensurepip: `-m venv` fails until its package is installed. The
# upgrades of the first boot hold the lock of apt's lists for minutes, and DPkg::Lock::Timeout does not apply to that lock.
venv_after_apt() {  # VENV PYTHON...
  local venv=$1 python turn updated until_ms
  shift
  command -v apt-get >/dev/null 2>&1 || return 1
  wait_for_boot
  read_uptime
  until_ms=$((now_ms + 600000))
  for ((turn = 0; turn < 20 && now_ms < until_ms; turn++)); do
    updated=yes
    step 300 "apt-get update" as_root "${apt[@]}" update || updated=""
    for python in "$@"; do
      if step 900 "apt-get install ${python##*/}-venv" as_root "${apt[@]}" install -y "${python##*/}-venv" &&
        fresh_venv "$venv" "$python"; then return 0; fi
    done
    if [ -n "$updated" ]; then return 1; fi
    sleep 10
    read_uptime
  done
  return 1
}

make_venv() {  # VENV PYTHON...: makes a virtual environment with pip from the first of these Pythons that can make one
  local venv=$1 python
  shift
  (
    # bootstrap.sh and data.sh run in parallel, and two apt-get processes would block each other.
    if command -v flock >/dev/null 2>&1; then flock -w 1500 9 || exit 1; fi
    if has_pip "$venv"; then exit 0; fi
    for python in "$@"; do
      if fresh_venv "$venv" "$python"; then exit 0; fi
    done
    say "$1 cannot make a virtual environment; installing its venv package"
    venv_after_apt "$venv" "$@"
  ) 9>"$ours/.venv.lock" >&2
}

pip_install() {  # VENV PACKAGE...: pip without -q and without a bar, so that its last line says how far it is
  step 1500 "pip install ${*:2}" "$1/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
    "${@:2}"
}
