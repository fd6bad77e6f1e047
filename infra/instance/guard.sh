# shellcheck shell=sh
# Ends this machine when nobody has asked for it to go on. cloud-init starts it at every boot, as root, before SSH is up.
#
#   sh -c "$(cat guard.sh)" pixel-orch-guard MINUTES MOST [TICK_S]
#
# It waits MINUTES. While the agent lives it moves the deadline forward; during a long set-up our laptop does, to MOST minutes
# from the boot at most (0: no limit), which is what the budget surely buys. Why not `shutdown +N`: with N of 5 or less no user
# may log in any more, and a timer that is armed late in the boot outlives its cancelling.
minutes=$1 most=$2 tick_s=${3:-15}
dir=${PIXEL_ORCH_RUN:-/run/pixel-orch}
now=$(cut -d. -f1 /proc/uptime)
mkdir -p "$dir" && chmod 777 "$dir"
echo $((now + 60 * minutes)) >"$dir/deadline"
chmod 666 "$dir/deadline"
if [ "$most" -gt 0 ]; then echo $((now + 60 * most)) >"$dir/limit"; fi
watch='while sleep "$1"; do
  end=$(cat "$2/deadline" 2>/dev/null)
  case $end in "" | *[!0-9]*) continue ;; esac
  [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || systemctl poweroff || shutdown -h now || poweroff
done'
# Without dependencies: this early in the boot systemd would make it wait for what comes later.
systemd-run --no-block --collect --unit=pixel-orch-guard -p DefaultDependencies=no -p Restart=always \
  /bin/sh -c "$watch" pixel-orch-guard "$tick_s" "$dir" 2>/dev/null ||
  { setsid nohup /bin/sh -c "$watch" pixel-orch-guard "$tick_s" "$dir" >/dev/null 2>&1 </dev/null & }
