"""What a person reads of each event."""

from __future__ import annotations

import time

from orchestrator.formatting import counted, price, span
from orchestrator.runs import events as ev


def event_words(event: ev.Event, now: float) -> str:  # noqa: PLR0911, PLR0912  (one case for each event is the clearest form)
    """Return what people are told of an event at `now`, "" if it is none of their concern."""
    match event:
        case ev.LaunchRequested():
            usd_h = price(event.price_usd_h)
            if event.zone == "any":
                return f"asking for any of {event.instance_type} ({event.market}) at up to ${usd_h}/h"
            return f"asking for {event.instance_type} ({event.market}) in {event.zone} at ${usd_h}/h"
        case ev.LaunchFailed():
            return f"  not there: {event.code} in {'all zones' if event.zone == 'any' else event.zone}"
        case ev.CapacityAwaited():
            pools = "1 pool" if event.pools == 1 else f"{event.pools} pools"
            again_at = time.strftime("%H:%M:%S", time.localtime(event.again_at))
            return f"  no capacity in {pools}; asking again at {again_at}"
        case ev.InstanceStarted():
            return f"  got {event.instance_id}, attempt {event.attempt}"
        case ev.HostReady():
            data = f", data {event.data_how or 'there'} after {event.data_s:.1f} s" if event.data_s else ""
            return f"  host is ready after {event.setup_s:.1f} s of set-up, code synced{data}"
        case ev.TrainerStarted():
            return f"  training from step {event.resumed_from + 1}" + (" (resumed)" if event.resumed_from else "")
        case ev.RebalanceRecommended():
            return f"  EC2 recommends to rebalance: {event.instance_id} may be interrupted"
        case ev.InterruptionNoticed():
            left_s = max(0.0, event.ends_at - now)
            return f"INTERRUPTION NOTICE: {left_s:.0f} s left for {event.instance_id}; saving"
        case ev.DiskFull():
            left_s = max(0.0, event.gives_up_at - now)
            return (
                f"THE DISK OF THIS MACHINE IS FULL ({event.folder}): nothing can come home; the training goes on. "
                f"Free some space within {span(left_s)}"
            )
        case ev.CredentialsExpiring():
            left_min = max(0.0, event.ends_at - now) / 60
            return (
                f"AWS CREDENTIALS EXPIRE in {left_min:.0f} min: log in again (aws sso login).\n"
                "  The training goes on. Without new ones we cannot end the instance;\n"
                "  then it ends itself by its own limits."
            )
        case ev.CheckpointPulled():
            return f"  {event.name} is home ({event.size_bytes / 1e6:.2f} MB, sha256 {event.sha256[:8]})"
        case ev.ExtraOutputsPulled():
            is_one = event.files == 1
            home = f"  {counted(event.files, 'other file')} {'is' if is_one else 'are'} home"
            home += f" ({event.size_bytes / 1e6:.2f} MB, in outputs/)"
            return f"{home}; left there: {event.left}" if event.left else home
        case ev.CheckpointStored():
            return f"  {event.name} is in S3"
        case ev.RemoteStoreTroubled():
            return f"  S3 REFUSES: {event.reason}\n  The training goes on; checkpoints come home only."
        case ev.CheckpointRefused():
            return f"  {event.name} is damaged and not used: {event.reason}"
        case ev.TrainerExited():
            how = "stopped as asked" if event.asked else "finished" if event.exit_code == 0 else "failed"
            return f"  trainer {how} at step {event.last_step} (exit code {event.exit_code})"
        case ev.AttemptLost():
            return f"  attempt {event.attempt} is over: {event.reason}"
        case ev.TerminateRequested():
            return f"  ending {event.instance_id}"
        case ev.InstanceEnded():
            return f"  {event.instance_id} is gone (ended by {_WHO[event.ended_by]})"
        case ev.StateChanged(state="RECOVERING"):
            return "RECOVERING: on to the next pool"
        case _:
            return ""


_WHO = {"aws": "AWS", "pixel-orch": "us", "instance": "itself", "other": "somebody else"}
