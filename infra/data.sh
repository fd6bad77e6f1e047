#!/usr/bin/env bash
# Gets a data set onto the instance, while the bootstrap looks for a Python with torch: that may take minutes, this needs none.
#
#   data.sh ROOT NAME               fetches the published files and prepares them, by the code that was sent
#   data.sh ROOT NAME s3://B/P      fills the folder from a bucket; returns when the first shard is there
#
# The data lie in ~/pixel-orch/data/NAME, for all runs on this machine. The last line is one JSON object: seconds.
set -euo pipefail
root=$1
name=$2
url=${3:-}
data="$HOME/pixel-orch/data"
began=$(date +%s.%N)
mkdir -p "$data"
if [ -n "$url" ]; then needs="boto3"; packages="boto3"; else needs="numpy PIL pydantic simplejpeg lz4"; packages="numpy pillow pydantic>=2.6 simplejpeg lz4"; fi

can_serve() {
  "$1" - $needs <<'PY' 2>/dev/null
import importlib.util, sys
sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))
PY
}

python=""
for candidate in python3 /opt/pytorch/bin/python "$HOME/pixel-orch/data-venv/bin/python"; do
  path=$(command -v "$candidate" 2>/dev/null) || continue
  if can_serve "$path"; then python=$path; break; fi
done
if [ -z "$python" ]; then
  echo "data: no Python here has $packages; installing" >&2
  python3 -m venv "$HOME/pixel-orch/data-venv" >&2
  python="$HOME/pixel-orch/data-venv/bin/python"
  # shellcheck disable=SC2086  # several words of our own
  "$python" -m pip install -q --disable-pip-version-check $packages >&2
fi
if [ -n "$url" ]; then
  "$python" "$root/bin/s3_data.py" "$data/$name" "$url" >&2
else
  (cd "$root/code" && PIXEL_ORCH_DATA="$data" "$python" -m model data prepare "$name" >&2)
fi
"$python" -c 'import sys, time; print("{\"seconds\": %.3f}" % (time.time() - float(sys.argv[1])))' "$began"
