"""`setup` creates what runs share in an account: a CloudFormation stack; `teardown` removes it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

from orchestrator.cli.console import confirm, require_terminal
from orchestrator.cloud.base import MANAGED_TAG, Cloud
from orchestrator.cloud.connect import embedded_endpoint, regions_for
from orchestrator.errors import PixelOrchError, SpecError
from orchestrator.formatting import WIDTH, wrapped
from orchestrator.plan.validators import check_amount, check_cloud
from orchestrator.runs.home import home_from_environment, make_home
from orchestrator.runs.spec import EMBEDDED_TITLE

if TYPE_CHECKING:
    from orchestrator.cloud.aws.stack import Stack, StackEvent

STACK_TAG = "pixel-orch:stack"
NAME_GRAMMAR = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{0,39}")
EMAIL_GRAMMAR = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
AT_REST = (
    "Cost at rest: role, profile, security group and alarm are free; S3 bills the\n"
    "bucket's data, about $0.023 per GB and month, $0.0125 after 30 days\n"
    "(infra/README.md)."
)


def setup(args: argparse.Namespace) -> int:
    """Do `pixel-orch setup`: create the stack, or update it. A second call changes nothing."""
    name = check_stack_name(args.stack_name)
    usd, email = check_alarm(args.budget_alarm, args.email)
    say = _printer(args)
    with _stack(args, name) as (stack, _):
        parameters = _parameters(stack, usd, email, args)
        if args.dry_run:
            return _print_dry(stack, parameters, args)
        is_new = stack.describe() is None
        if stack.ensure_boundary(_account_file("policies/boundary.json")):
            say("  made the policy pixel-orch-boundary, which bounds the role (infra/account/policies/boundary.json)")
        tags = {MANAGED_TAG: "true", STACK_TAG: name}
        events = _print_events(stack.deploy(_account_file("stack.yaml"), parameters, tags), say)
        outputs, missing = stack.outputs(), sorted(expected(parameters) - set(stack.resources()))
    for resource in missing:
        say(f"  {resource} is missing" + (": the embedded cloud has none" if args.cloud == "local" else ""))
    answer = {"stack": name, "region": stack.region, "changed": events > 0, **outputs, "missing": missing}
    if args.output == "json":
        print(json.dumps(answer))
        return 0
    say("created" if is_new else "updated" if events else "up to date; nothing to change")
    say(f"bucket            {outputs['Bucket']}   (launch --bucket {outputs['Bucket']})")
    say(f"instance profile  {outputs['InstanceProfile']}   {_profile_hint(name)}")
    say(f"security group    {outputs.get('SecurityGroup', 'none: the region has no default VPC')}")
    alarm = f"${parameters['BudgetUsd']} a month, to {parameters['Email']}" if parameters["Email"] else ""
    say(f"budget alarm      {alarm or 'none (--budget-alarm USD --email ADDRESS)'}")
    say(AT_REST)
    return 0


def teardown(args: argparse.Namespace) -> int:
    """Do `pixel-orch teardown`: remove the stack; the bucket too if it is empty or its data is to be deleted."""
    name = check_stack_name(args.stack_name)
    say = _printer(args)
    with _stack(args, name) as (stack, cloud):
        bucket = stack.parameters().get("BucketName") or bucket_name(name, stack.account(), stack.region)
        is_there, held = stack.describe() is not None, stack.contents(bucket)
        plan = _plan(name, bucket, is_there, held, args.delete_bucket_data)
        if args.dry_run:
            for line in plan:
                say(line)
            if args.output == "json":
                print(json.dumps({"dry_run": True, "plan": plan}))
            return 0
        if not is_there and held is None:
            say(f"there is no stack {name} in {stack.region}, and no bucket {bucket}; nothing to do")
        elif not _agreed(plan, args):
            say("Nothing was removed.")
            return 1
        check_nothing_runs(i.instance_id for i in cloud.instances() if not i.is_gone)
        _print_events(stack.delete(), say)
        stack.delete_boundary()
        goes = held is not None and (held.objects == 0 or args.delete_bucket_data)
        if goes:
            stack.delete_bucket(bucket)
            say(f"removed bucket {bucket}")
        elif held is not None:
            say(plan[-1])
    if args.output == "json":
        kept = bucket if held is not None and not goes else None
        print(json.dumps({"stack": name, "removed": is_there, "bucket_kept": kept}))
    return 0


@contextmanager
def _stack(args: argparse.Namespace, name: str) -> Iterator[tuple[Stack, Cloud]]:
    """Give the stack and its cloud.

    Raises:
        SpecError: the cloud or the region is unknown.
    """
    from orchestrator.cloud.aws import AwsCloud
    from orchestrator.cloud.aws.stack import Stack

    cloud_name = check_cloud(args.cloud)
    regions = regions_for(cloud_name, tuple(args.region or ()), args.profile)
    if len(regions) != 1:
        raise SpecError(f"--region: a stack has one region; give one of {', '.join(regions)}")
    if cloud_name == "aws":
        yield Stack(name, regions[0], profile=args.profile), AwsCloud(regions, profile=args.profile)
        return
    with embedded_endpoint(make_home(home_from_environment())) as endpoint:
        cloud = AwsCloud(regions, endpoint=endpoint, title=EMBEDDED_TITLE)
        yield Stack(name, regions[0], endpoint=endpoint, look_every_s=0.1), cloud


def check_stack_name(name: str) -> str:
    """Return the name of a stack, which is also that of its role and profile.

    Raises:
        SpecError: CloudFormation would refuse it.
    """
    if not NAME_GRAMMAR.fullmatch(name):
        raise SpecError(
            f"--stack-name: {name!r} is not a stack name; use a letter, then up to 39 letters, digits and '-'"
        )
    return name


def check_alarm(usd: str | None, email: str | None) -> tuple[str, str]:
    """Return the monthly limit in dollars and the address of the alarm, ("0", "") for none.

    Raises:
        SpecError: one of them is missing or invalid.
    """
    if (usd is None) != (email is None):
        raise SpecError("--budget-alarm USD and --email ADDRESS go together; give both")
    if usd is None or email is None:
        return "0", ""
    if not EMAIL_GRAMMAR.fullmatch(email):
        raise SpecError(f"--email: {email!r} is not an address; give one, for example --email you@example.org")
    return f"{check_amount(usd, flag='--budget-alarm', example='20').normalize():f}", email


def bucket_name(stack: str, account: str, region: str) -> str:
    """Return the name of the stack's bucket: it contains the account, as bucket names are global."""
    return f"{stack.lower()}-{account}-{region}"


def _parameters(stack: Stack, usd: str, email: str, args: argparse.Namespace) -> dict[str, str]:
    """Return the parameters of this deployment; an existing stack keeps what is not given anew."""
    before = stack.parameters()
    bucket = before.get("BucketName") or bucket_name(stack.name, stack.account(), stack.region)
    makes = before.get("MakeBucket") or ("false" if stack.contents(bucket) is not None else "true")
    if not email and before.get("Email"):
        usd, email = before["BudgetUsd"], before["Email"]
    return {
        "BucketName": bucket,
        "MakeBucket": makes,
        "VpcId": before.get("VpcId") or stack.default_vpc(),
        "SsmAccess": "true" if args.ssm else before.get("SsmAccess", "false"),
        "BudgetUsd": usd,
        "Email": email,
    }


def expected(parameters: dict[str, str]) -> set[str]:
    """Return the logical names of what the template creates with these parameters."""
    names = {"Role", "InstanceProfile", "BucketPolicy"}
    if parameters["MakeBucket"] == "true":
        names.add("Bucket")
    if parameters["VpcId"]:
        names.add("SecurityGroup")
    if parameters["Email"]:
        names.add("BudgetAlarm")
    return names


def _account_file(name: str) -> str:
    return resources.files("infra.account").joinpath(name).read_text()


def _printer(args: argparse.Namespace) -> Any:
    file = sys.stderr if args.output == "json" else sys.stdout
    return lambda text: print(text, file=file)


def _print_events(events: Iterable[StackEvent], say: Any) -> int:
    """Print events as they arrive; return how many there were."""
    count = 0
    for event in events:
        count += 1
        if not event.status.endswith("_IN_PROGRESS"):
            say(f"  {event.status:24} {event.resource}" + (f": {event.reason}" if event.reason else ""))
    return count


def _profile_hint(name: str) -> str:
    from orchestrator.cloud.aws.stack import DEFAULT_NAME

    return "(launch uses it by default)" if name == DEFAULT_NAME else f"(launch --instance-profile {name})"


def _print_dry(stack: Stack, parameters: dict[str, str], args: argparse.Namespace) -> int:
    makes = sorted(expected(parameters))
    if args.output == "json":
        print(json.dumps({"dry_run": True, "stack": stack.name, "parameters": parameters, "resources": makes}))
        return 0
    verb = "updated" if stack.describe() is not None else "created"
    head = f"Stack {stack.name} in {stack.region} would be {verb} (infra/account/stack.yaml); nothing is created."
    print(wrapped(head, WIDTH) + "\n")
    for key, value in parameters.items():
        print(f"  {key:12} {value or '-'}")
    print("\n" + wrapped(f"It holds: {', '.join(makes)}.\n{AT_REST}", WIDTH))
    return 0


def _plan(name: str, bucket: str, is_there: bool, held: Any, with_data: bool) -> list[str]:
    lines = [f"stack {name}: role, instance profile, security group, alarm"] if is_there else []
    if held is None:
        return lines
    if held.objects == 0:
        return [*lines, f"bucket {bucket}, empty"]
    what = f"{held.objects} objects, {held.size_bytes / 1e6:.1f} MB"
    if with_data:
        return [*lines, f"bucket {bucket} WITH ITS DATA: {what}; this cannot be undone"]
    return [*lines, f"kept: bucket {bucket} ({what}); teardown --delete-bucket-data removes it"]


def _agreed(plan: list[str], args: argparse.Namespace) -> bool:
    if args.yes:
        return True
    require_terminal()
    print("To be removed:", *plan, sep="\n  ")
    return confirm("Remove it?", default=False)


def check_nothing_runs(machines: Iterable[str]) -> None:
    """Refuse to remove the role of running instances.

    Raises:
        PixelOrchError: some are running.
    """
    running = list(machines)
    if running:
        raise PixelOrchError(
            f"instances are still running ({len(running)}: {', '.join(running[:3])}); end them: pixel-orch down -a"
        )
