#!/usr/bin/env bash
# Puts a data set on the instance. It runs in parallel with bootstrap.sh, since it does not need torch.
#
#   data.sh ROOT NAME "" "" [WORD...]        downloads the published files and prepares them with the code that was sent
#   data.sh ROOT NAME s3://B/P ASKED [...]   downloads the prepared data from a bucket; returns after the first shard. If the
#                                            bucket has no data yet, prepares them and uploads them in the background
#
# WORD are arguments of `data prepare`. ASKED (JSON, or "") is the recipe that they specify; the recipe in the bucket must equal
# it. The data are in ~/pixel-orch/data/NAME, for all runs on this machine. The last line is one JSON object: seconds, how.
set -euo pipefail
root=$1 name=$2 url=$3 asked=$4
shift 4
# shellcheck source=SCRIPTDIR/common.sh
. "$root/bin/common.sh"
data="$ours/data"
HOURS_S=21600  # 131 GB take half an hour at 100 MB/s, reading them another
read_uptime
began_ms=$now_ms
mkdir -p "$data"

can_serve() {  # PYTHON 3.10 MODULE...
  is_at_least "$1" "$2" && within 60 "${1##*/}" has_modules "$1" "${@:3}" >/dev/null
}

has_modules() {  # PYTHON MODULE...
  "$1" - "${@:2}" <<'PY'
import importlib.util, sys
sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))
PY
}

with_packages() {  # WHO 3.10 "MODULE..." "PACKAGE...": prints the path of a Python that has them; makes an environment if none has
  local candidate path modules packages makers=() venv="$ours/data-venv"
  read -ra modules <<<"$3"
  read -ra packages <<<"$4"
  while read -r path; do makers+=("$path"); done < <(pythons "$2")
  for candidate in python3 /opt/pytorch/bin/python "$venv/bin/python" ${makers[@]+"${makers[@]}"}; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if can_serve "$path" "$2" "${modules[@]}"; then echo "$path"; return; fi
  done
  if [ ${#makers[@]} = 0 ]; then too_old "$1" "$2"; fi
  say "no Python on this machine has ${packages[*]}; installing"
  make_venv "$venv" "${makers[@]}" || give_up "${makers[0]} cannot make a virtual environment: $(because)"
  pip_install "$venv" "${packages[@]}" || give_up "pip cannot install ${packages[*]}: $(because)"
  echo "$venv/bin/python"
}

finish() {  # HOW: prints the JSON object and exits
  read_uptime
  printf '{"seconds": %d.%03d, "how": "%s"}\n' $(((now_ms - began_ms) / 1000)) $(((now_ms - began_ms) % 1000)) "$1"
  exit 0
}

if [ -n "$url" ]; then
  with_s3=$(with_packages "the data bucket" 3.8 boto3 boto3)
  status=0
  step "$HOURS_S" "fetching $url" "$with_s3" "$root/bin/dataset_sync.py" fetch "$data/$name" "$url" "$asked" || status=$?
  if [ "$status" = 0 ]; then finish "fetched"; fi
  if [ "$status" != 4 ]; then exit "$status"; fi
  say "$url has no data yet; preparing them on this machine"
fi
python=$(with_packages "the preparation of data" 3.10 "numpy PIL pydantic simplejpeg lz4" "numpy pillow pydantic>=2.6 simplejpeg lz4")
prepare() { cd "$root/code" && PIXEL_ORCH_DATA="$data" "$python" -m model data prepare "$@"; }
step "$HOURS_S" "preparing $name" prepare "$name" "$@" || {
  status=$?
  if [ -n "$url" ]; then say "$url has no data, and this machine cannot prepare $name: $(because)"; fi
  exit "$status"
}
if [ -z "$url" ]; then finish "prepared"; fi
log="$data/.$name.keep.log"
setsid nohup "$with_s3" "$root/bin/dataset_sync.py" keep "$data/$name" "$url" >"$log" 2>&1 </dev/null &
for ((turn = 0; turn < 100; turn++)); do  # its first line says that it outlives this session, which may close with our answer
  if [ -s "$log" ]; then break; fi
  pause 0.1
done
finish "prepared, and uploading to $url,"
