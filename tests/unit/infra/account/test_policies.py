"""The policies of infra/account/policies: known actions, no more than the code needs, and only what bears our tag."""

from __future__ import annotations

import ast
import importlib.resources
import json
import re
import sys
import types
from functools import lru_cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore import xform_name

from infra.local.aws.permissions import may

ROOT = Path(__file__).parents[4]
POLICIES = ROOT / "infra" / "account" / "policies"
BUCKET = "pixel-orch-123456789012-us-east-1"
HOME = "0123456789ab"
OURS = {
    f"aws:{whose}/pixel-orch:{name}": value
    for whose in ("ResourceTag", "RequestTag")
    for name, value in (("managed", "true"), ("home", HOME))
}
# One request checks several kinds of resources, and our tag can only be asked of some: AWS's own examples split such an
# action over two statements ("Example policies for working with the Amazon EC2 API"). The linter looks at each alone.
SPLIT = {"ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateSecurityGroup"}


def policy(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((POLICIES / name).read_text().replace("BUCKET", BUCKET).replace("HOME_ID", HOME))
    return found


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def allows(name: str, action: str, resource: str, **context: str) -> bool:
    return may([policy(name)], action, resource, context)


@pytest.fixture(scope="module")
def parliament() -> Any:
    """The linter. It asks for pkg_resources, which setuptools has dropped: the little that it uses of it is here."""
    pytest.importorskip("boto3")
    shim = types.ModuleType("pkg_resources")

    def path(package: str, name: str) -> Path:
        return Path(str(importlib.resources.files(package))) / name

    shim.resource_filename = lambda package, name: str(path(package, name))  # type: ignore[attr-defined]
    shim.resource_exists = lambda package, name: path(package, name).exists()  # type: ignore[attr-defined]
    shim.resource_string = lambda package, name: path(package, name).read_bytes()  # type: ignore[attr-defined]
    shim.resource_stream = lambda package, name: path(package, name).open("rb")  # type: ignore[attr-defined]
    had = sys.modules.setdefault("pkg_resources", shim)
    linter = pytest.importorskip("parliament")
    yield linter
    if had is shim:
        del sys.modules["pkg_resources"]


@pytest.mark.parametrize("name", ["instance.json", "one-run.json", "operator.json", "setup.json", "boundary.json"])
def test_the_linter_has_nothing_to_say_but_of_split_statements(parliament: Any, name: str) -> None:
    text = json.dumps(policy(name)).replace("${aws:PrincipalTag/pixel-orch:run}", "x")  # it knows no key with a "-"
    text = text.replace("s3:if-none-match", "s3:x-amz-acl")  # of 2024, and newer than the linter
    found = parliament.analyze_policy_string(text).findings
    for finding in found:
        if finding.issue == "RESOURCE_MISMATCH":
            assert {one["action"] for one in finding.detail} <= SPLIT, finding
            for one in finding.detail:
                assert is_covered(policy(name), one["action"], one["required_format"]), one
        else:  # who sets the bucket up may decide who reads it
            assert (name, finding.issue) == ("setup.json", "RESOURCE_POLICY_PRIVILEGE_ESCALATION"), finding


def is_covered(document: dict[str, Any], action: str, required: str) -> bool:
    """Whether another statement allows the action on that kind of resource."""
    kind = required.rpartition(":")[2]
    return any(
        action in listed(statement["Action"]) and any(one.endswith(kind) for one in listed(statement["Resource"]))
        for statement in document["Statement"]
    )


def test_the_linter_would_say_something(parliament: Any) -> None:
    bad = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ec2:Explode", "Resource": "*"}]}
    assert parliament.analyze_policy_string(json.dumps(bad)).findings


# -- the code and its policy

SERVICES = {
    "ec2": "ec2",
    "ssm": "ssm",
    "service-quotas": "servicequotas",
    "pricing": "pricing",
    "s3": "s3",
    "iam": "iam",
    "cloudformation": "cloudformation",
    "sts": "sts",
}
ALWAYS = {"sts:GetCallerIdentity"}  # needs no permission
RENAMED = {  # IAM's name for what an API operation needs
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:DownloadFile": "s3:GetObject",
    "s3:UploadFile": "s3:PutObject",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:DeleteObjects": "s3:DeleteObject",
}


@lru_cache(maxsize=1)
def operations() -> dict[str, list[str]]:
    """Return {python name: [service:Operation, ...]} of the services that the orchestrator asks."""
    session, found = botocore.session.get_session(), {}
    for service, prefix in SERVICES.items():
        for name in session.get_service_model(service).operation_names:
            found.setdefault(xform_name(name), []).append(f"{prefix}:{name}")
    found["download_file"], found["upload_file"] = ["s3:DownloadFile"], ["s3:UploadFile"]
    return found


def called(path: Path) -> set[str]:
    """Return the API operations that a file names, as a method or as a string."""
    known, found = operations(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.attr] if isinstance(node, ast.Attribute) else []
        names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
        for name in names:
            found.update(known.get(name, []) if "_" in name else [])
    return {RENAMED.get(one, one) for one in found} - ALWAYS


def allowed(name: str) -> set[str]:
    return {action for statement in policy(name)["Statement"] for action in listed(statement["Action"])}


BY_AN_ADMINISTRATOR = {"iam:CreatePolicy", "iam:DeletePolicy"}
OF_SETUP = {"orchestrator/cloud/aws/stack.py"}


@pytest.mark.slow
def test_every_call_of_a_run_is_in_the_operators_policy() -> None:
    paths = [
        path
        for path in (ROOT / "orchestrator" / "cloud" / "aws").glob("*.py")
        if str(path.relative_to(ROOT)) not in OF_SETUP
    ]
    needed = set().union(*(called(path) for path in paths))
    assert {"ec2:RunInstances", "ec2:CreateFleet", "ec2:TerminateInstances", "s3:GetObject"} <= needed
    assert needed <= allowed("operator.json")


def test_every_call_of_setup_is_in_its_policy() -> None:
    needed = called(ROOT / "orchestrator" / "cloud" / "aws" / "stack.py")
    assert {"cloudformation:CreateStack", "s3:DeleteObject"} <= needed
    assert needed - BY_AN_ADMINISTRATOR <= allowed("setup.json")
    assert not BY_AN_ADMINISTRATOR & allowed("setup.json"), "who can change the boundary is not bound by it"


def test_every_call_of_the_instance_is_in_its_policy() -> None:
    assert called(ROOT / "infra" / "instance" / "checkpoint_uploader.py") <= allowed("instance.json")


def test_the_operator_has_no_permission_that_no_call_needs() -> None:
    implied = {"ec2:CreateTags", "iam:PassRole", "iam:CreateServiceLinkedRole", "iam:GetInstanceProfile"}
    paths = (ROOT / "orchestrator" / "cloud" / "aws").glob("*.py")
    assert allowed("operator.json") - implied <= set().union(*(called(path) for path in paths))


# -- what they let through

INSTANCE = "arn:aws:ec2:us-east-1:123456789012:instance/i-1"
GROUP = "arn:aws:ec2:us-east-1:123456789012:security-group/sg-1"


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("ec2:TerminateInstances", INSTANCE),
        ("ec2:RunInstances", INSTANCE),
        ("ec2:DeleteSecurityGroup", GROUP),
        ("ec2:AuthorizeSecurityGroupIngress", GROUP),
        ("ec2:CreateSecurityGroup", GROUP),
    ],
)
def test_the_operator_may_do_it_to_what_bears_our_tag_and_to_nothing_else(action: str, resource: str) -> None:
    assert allows("operator.json", action, resource, **OURS)
    assert not allows("operator.json", action, resource)
    assert not allows("operator.json", action, resource, **dict.fromkeys(OURS, "false"))
    others = {key: "another home" if key.endswith("home") else value for key, value in OURS.items()}
    assert not allows("operator.json", action, resource, **others), "a colleague's"


def test_the_operator_may_not_tag_what_is_there_nor_pass_another_role() -> None:
    making = {"ec2:CreateAction": "RunInstances"}
    assert allows("operator.json", "ec2:CreateTags", INSTANCE, **making)
    assert not allows("operator.json", "ec2:CreateTags", INSTANCE), "it would make anybody's instance ours to end"
    passing = {"iam:PassedToService": "ec2.amazonaws.com"}
    assert allows("operator.json", "iam:PassRole", "arn:aws:iam::1:role/pixel-orch", **passing)
    assert not allows("operator.json", "iam:PassRole", "arn:aws:iam::1:role/Admin", **passing)
    assert not allows("operator.json", "iam:PassRole", "arn:aws:iam::1:role/pixel-orch-admin", **passing)
    elsewhere = {"iam:PassedToService": "lambda.amazonaws.com"}
    assert not allows("operator.json", "iam:PassRole", "arn:aws:iam::1:role/pixel-orch", **elsewhere)


ME = {"aws:userid": "AROAEXAMPLE0123456789:i-0123456789abcdef0"}
OWN = f"machines/{ME['aws:userid']}"


def test_the_instance_reads_below_its_prefix_writes_to_its_own_folder_and_deletes_nothing() -> None:
    at = f"arn:aws:s3:::{BUCKET}/pixel-orch/digits-0123abcd"
    own, other = f"{at}/{OWN}/checkpoints/checkpoint-1.pt", f"{at}/machines/AROAEXAMPLE0123456789:i-0fedcba9876543210/x"
    for action in ("s3:PutObject", "s3:AbortMultipartUpload"):
        assert allows("instance.json", action, own, **ME)
        assert not allows("instance.json", action, own), "without a user id"
        for key in (other, f"{at}/checkpoints/checkpoint-1.pt", f"{at}/attempts/i-0123456789abcdef0/state.json"):
            assert not allows("instance.json", action, key, **ME)
        assert not allows("instance.json", action, other, **{"aws:userid": "*"}), "a user id is no pattern"
    for key in (own, other, f"{at}/checkpoints/checkpoint-1.pt"):
        assert allows("instance.json", "s3:GetObject", key, **ME), "the next machine reads what the last one wrote"
        assert not allows("instance.json", "s3:DeleteObject", key, **ME)
    for action in ("s3:PutObject", "s3:GetObject"):
        assert not allows("instance.json", action, f"arn:aws:s3:::{BUCKET}/other", **ME)
    data, only_new = f"arn:aws:s3:::{BUCKET}/pixel-orch/data/cifar10/manifest.json", {"s3:if-none-match": "*"}
    assert allows("instance.json", "s3:PutObject", data, **ME, **only_new)
    assert not allows("instance.json", "s3:PutObject", data, **ME), "it would overwrite the data of other runs"
    assert allows("instance.json", "s3:GetObject", data, **ME)
    assert not allows("instance.json", "ec2:TerminateInstances", INSTANCE)
    bucket = f"arn:aws:s3:::{BUCKET}"
    assert allows("instance.json", "s3:ListBucket", bucket, **{"s3:prefix": "pixel-orch/run/checkpoints/"})
    assert not allows("instance.json", "s3:ListBucket", bucket, **{"s3:prefix": ""})


ROLE = "arn:aws:iam::123456789012:role/pixel-orch"
BOUNDARY = "arn:aws:iam::123456789012:policy/pixel-orch-boundary"


@pytest.mark.parametrize("action", ["iam:CreateRole", "iam:PutRolePolicy", "iam:PutRolePermissionsBoundary"])
def test_who_sets_up_makes_roles_within_the_boundary_only(action: str) -> None:
    assert allows("setup.json", action, ROLE, **{"iam:PermissionsBoundary": BOUNDARY})
    assert not allows("setup.json", action, ROLE)
    assert not allows("setup.json", action, ROLE, **{"iam:PermissionsBoundary": f"{BOUNDARY}-of-mine"})


def test_who_sets_up_cannot_take_the_boundary_away_nor_attach_another_policy() -> None:
    bound = {"iam:PermissionsBoundary": BOUNDARY}
    wanted = {"iam:PolicyARN": "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"}
    assert allows("setup.json", "iam:AttachRolePolicy", ROLE, **bound, **wanted)
    assert not allows("setup.json", "iam:AttachRolePolicy", ROLE, **wanted)
    admin = {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"}
    assert not allows("setup.json", "iam:AttachRolePolicy", ROLE, **bound, **admin)
    for action in ("iam:DeleteRolePermissionsBoundary", "iam:UpdateAssumeRolePolicy"):
        assert not allows("setup.json", action, ROLE, **bound)
    for action in ("iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:SetDefaultPolicyVersion", "iam:DeletePolicy"):
        assert not allows("setup.json", action, BOUNDARY)


def test_who_sets_up_tags_only_what_is_being_made() -> None:
    assert allows("setup.json", "ec2:CreateTags", GROUP, **{"ec2:CreateAction": "CreateSecurityGroup"})
    assert not allows("setup.json", "ec2:CreateTags", GROUP, **OURS), "it would make anybody's group ours to delete"
    assert not allows("setup.json", "ec2:CreateTags", INSTANCE, **{"ec2:CreateAction": "RunInstances"})
    assert allows("setup.json", "ec2:CreateSecurityGroup", GROUP, **OURS)
    assert not allows("setup.json", "ec2:CreateSecurityGroup", GROUP)


def test_the_boundary_holds_whatever_the_role_is_given() -> None:
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    here = {"aws:PrincipalAccount": "123456789012", "aws:ResourceAccount": "123456789012"}

    def bounded(action: str, key: str = f"pixel-orch/run-0123abcd/{OWN}/x", **context: str) -> bool:
        known = {**here, **ME, **context}
        return may([everything], action, f"arn:aws:s3:::b/{key}", known, boundary=policy("boundary.json"))

    assert bounded("s3:PutObject")
    assert bounded("s3:GetObject", "anything")
    for key in ("k", "pixel-orch/run-0123abcd/checkpoints/x", "pixel-orch/run-0123abcd/machines/AROAX:i-1/x"):
        assert not bounded("s3:PutObject", key), "the own folder, and prepared data"
    assert bounded("ssmmessages:OpenDataChannel")
    assert not bounded("s3:PutObject", **{"aws:ResourceAccount": "999999999999"})
    for action in ("s3:DeleteObject", "iam:CreateUser", "ec2:RunInstances", "sts:AssumeRole", "ssm:GetParameter"):
        assert not bounded(action)
    needed = {action for name in ("instance.json", "one-run.json") for action in allowed(name)}
    assert needed <= allowed("boundary.json")


def test_a_role_with_the_tag_of_a_run_reads_and_writes_that_run_only() -> None:
    mine = {"aws:PrincipalTag/pixel-orch:run": "digits", **ME}
    at = f"arn:aws:s3:::{BUCKET}/pixel-orch"
    for action in ("s3:PutObject", "s3:GetObject"):
        assert allows("one-run.json", action, f"{at}/digits-0123abcd/{OWN}/checkpoints/checkpoint-1.pt", **mine)
        for other in ("cifar-0123abcd", "digits-2-0123abcd", "digits", "digits-0123abc"):
            assert not allows("one-run.json", action, f"{at}/{other}/{OWN}/checkpoints/checkpoint-1.pt", **mine)
        assert not allows("one-run.json", action, f"{at}/digits-0123abcd/{OWN}/x", **ME), "a role without the tag"
        star = {"aws:PrincipalTag/pixel-orch:run": "*", **ME}
        assert not allows("one-run.json", action, f"{at}/cifar-0123abcd/{OWN}/x", **star), "a tag is no pattern"
    for key in ("checkpoints/checkpoint-1.pt", "machines/AROAX:i-1/checkpoints/checkpoint-1.pt"):
        assert allows("one-run.json", "s3:GetObject", f"{at}/digits-0123abcd/{key}", **mine)
        assert not allows("one-run.json", "s3:PutObject", f"{at}/digits-0123abcd/{key}", **mine)
    bucket = f"arn:aws:s3:::{BUCKET}"
    prefix = "pixel-orch/digits-0123abcd/checkpoints/"
    assert allows("one-run.json", "s3:ListBucket", bucket, **mine, **{"s3:prefix": prefix})
    assert not allows("one-run.json", "s3:ListBucket", bucket, **mine, **{"s3:prefix": "pixel-orch/"})


@pytest.mark.parametrize(
    ("condition", "context", "is_allowed"),
    [
        ({"StringEquals": {"k": "a*"}}, {"k": "ab"}, False),
        ({"StringEquals": {"K": ["a", "b"]}}, {"k": "b"}, True),
        ({"StringLike": {"k": "a*c?"}}, {"k": "abcd"}, True),
        ({"StringLike": {"k": "[a]"}}, {"k": "a"}, False),
        ({"StringLike": {"k": "${u}/*"}}, {"k": "me/x", "u": "me"}, True),
        ({"StringLike": {"k": "${u}/*"}}, {"k": "you/x", "u": "*"}, False),
        ({"StringLike": {"k": "${u}/*"}}, {"k": "/x"}, False),
        ({"StringEquals": {"k": "${u, 'x'}"}}, {"k": "x"}, True),
        ({"StringNotEquals": {"k": "a"}}, {}, True),
        ({"StringNotEquals": {"k": ["a", "b"]}}, {"k": "b"}, False),
        ({"StringEqualsIfExists": {"k": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"k": "a"}}, {"k": "b"}, False),
        ({"Null": {"k": "true"}}, {}, True),
        ({"Null": {"k": "false"}}, {}, False),
        ({"ArnLike": {"k": "arn:aws:iam::*:role/x"}}, {"k": "arn:aws:iam::1:role/x"}, True),
        ({"StringEquals": {"k": "a", "j": "b"}}, {"k": "a"}, False),
        ({"NumericLessThan": {"k": "5"}}, {"k": "1"}, False),
    ],
)
def test_conditions_are_weighed_as_iam_weighs_them(
    condition: dict[str, Any], context: dict[str, str], is_allowed: bool
) -> None:
    statement = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "*", "Condition": condition}
    assert may([{"Statement": statement}], "s3:GetObject", "arn:aws:s3:::b/k", context) is is_allowed
    assert not may(
        [{"Statement": [statement, {**statement, "Effect": "Deny", "Condition": {}}]}], "s3:GetObject", "x", {}
    )


# -- the template


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as what they hold."""


Loader.add_multi_constructor("!", lambda loader, _, node: _held(loader, node))


def _held(loader: Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((ROOT / "infra" / "account" / "stack.yaml").read_text(), Loader)  # noqa: S506 - a SafeLoader
    return found


def test_the_role_of_the_stack_has_the_instances_policy(template: dict[str, Any]) -> None:
    (own,) = template["Resources"]["Role"]["Properties"]["Policies"]
    text = json.dumps(own["PolicyDocument"]).replace("${AWS::Partition}", "aws").replace("${BucketName}", BUCKET)
    assert json.loads(text.replace("${!", "${")) == policy("instance.json"), "!Sub writes ${!x} as ${x}"


def test_the_bucket_is_private_encrypted_and_outlives_the_stack(template: dict[str, Any]) -> None:
    bucket = template["Resources"]["Bucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["Properties"]["BucketEncryption"]
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}, "what is overwritten is not lost"
    boundary = template["Resources"]["Role"]["Properties"]["PermissionsBoundary"]
    assert boundary.endswith(":policy/pixel-orch-boundary")
    rules = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    assert not any("ExpirationInDays" in rule for rule in rules), "nothing deletes checkpoints"
    (statement,) = template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_the_security_group_lets_nobody_in(template: dict[str, Any]) -> None:
    assert "SecurityGroupIngress" not in template["Resources"]["SecurityGroup"]["Properties"]


ALLOWED = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")  # EC2: "GroupDescription", "IpRange"


def descriptions(value: Any) -> list[str]:
    """Return all that is called a description below a value."""
    if isinstance(value, list):
        return [found for one in value for found in descriptions(one)]
    if not isinstance(value, dict):
        return []
    own = [text for key, text in value.items() if key in ("Description", "GroupDescription") and isinstance(text, str)]
    return own + [found for one in value.values() for found in descriptions(one)]


def test_ec2_takes_the_descriptions_of_the_security_group(template: dict[str, Any]) -> None:
    groups = [one for one in template["Resources"].values() if one["Type"].startswith("AWS::EC2::SecurityGroup")]
    found = descriptions(groups)
    assert len(found) == 2
    for text in found:
        assert ALLOWED.fullmatch(text), text


def test_ec2_takes_the_descriptions_that_the_code_sends() -> None:
    found = []
    for path in (ROOT / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found += [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "Description"]
    assert len(found) == 3, "the security group of a run, and its rules"
    for value in found:
        assert isinstance(value, ast.Constant), ast.unparse(value)
        assert ALLOWED.fullmatch(value.value), value.value


@pytest.mark.slow
def test_cfn_lint_has_nothing_to_say() -> None:
    import subprocess

    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [lint, ROOT / "infra" / "account" / "stack.yaml"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
