# shellcheck shell=sh
# Powers this machine off when its deadline passes. cloud-init starts the guard at every boot, as root, before SSH is up.
#
#   sh -c "$(cat guard.sh)" pixel-orch-guard MINUTES MOST [TICK_S]
#
# The first deadline is MINUTES after the start. The running agent moves it forward; during a long set-up the orchestrator does,
# up to MOST minutes after the boot (0: no limit), the time that the budget is guaranteed to cover. `shutdown +N` is not used:
# with N of 5 or less it blocks logins, and a timer that is set late in the boot is not removed when it is cancelled.
#
# No command is waited for: one that hangs, in a driver for example, must not keep the machine. After eight ticks (two minutes)
# the machine is powered off without its services, and then without its file systems.
minutes=$1 most=$2 tick_s=${3:-15}
dir=${PIXEL_ORCH_RUN:-/run/pixel-orch}
now=$(cut -d. -f1 /proc/uptime)
mkdir -p "$dir" && chmod 777 "$dir"
echo $((now + 60 * minutes)) >"$dir/deadline"
chmod 666 "$dir/deadline"
if [ "$most" -gt 0 ]; then echo $((now + 60 * most)) >"$dir/limit"; fi
# In a file: of the words of a unit systemd replaces each `$` once its configuration was read again (daemon-reload).
cat >"$dir.guard" <<'SH'
late=0
while sleep "$2"; do
  end=$(cat "$3/deadline" 2>/dev/null)
  case $end in "" | *[!0-9]*) continue ;; esac
  if [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ]; then late=0; continue; fi
  case $late in
    0) { systemctl poweroff || shutdown -h now || poweroff; } & ;;
    8) { systemctl poweroff --force || poweroff -f; } & ;;
    16) { systemctl poweroff --force --force || poweroff -f -f; } & ;;
    24) { [ "$3" = /run/pixel-orch ] && echo o >/proc/sysrq-trigger; } & ;;
  esac
  late=$(((late + 1) % 32))
done
SH
# Without dependencies: this early in the boot, systemd would otherwise delay the unit until later units have started.
systemd-run --no-block --collect --unit=pixel-orch-guard -p DefaultDependencies=no -p Restart=always -p RestartSec=5 \
  -p KillMode=process /bin/sh "$dir.guard" pixel-orch-guard "$tick_s" "$dir" 2>/dev/null ||
  { setsid nohup /bin/sh "$dir.guard" pixel-orch-guard "$tick_s" "$dir" >/dev/null 2>&1 </dev/null & }
# Upgrades in the background would replace the NVIDIA driver under the trainer. Until the next boot they do not start; a unit that
# is not there is no failure.
upgrades="apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service unattended-upgrades.service
  dnf-automatic.timer dnf-automatic-install.timer yum-cron.service"
# shellcheck disable=SC2086
{ systemctl mask --runtime $upgrades; systemctl stop --no-block $upgrades; } >/dev/null 2>&1 </dev/null &
