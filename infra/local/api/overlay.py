"""The WSGI overlay: it receives every request to the embedded cloud and passes those it does not implement to moto.

    request -> check of the access key id -> control route | fault | own operation | moto

Every request needs the access key id, which is random for each start. Otherwise any local user could launch an instance
with their own SSH key and get a shell as the user of this process.
"""

import io
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from infra.local.api.control_routes import CONTROL_PREFIX, ControlRoutes
from infra.local.api.create_fleet import Fleets
from infra.local.api.placement_groups import PlacementGroups
from infra.local.api.request_journal import RequestJournal
from infra.local.api.run_instances import Launcher
from infra.local.api.s3 import S3
from infra.local.aws import (
    moto_cloudformation,
    moto_ec2,
    moto_iam,
    moto_ssm,
    price_list,
    spot_market,
    spot_price_history,
)
from infra.local.aws.errors import STATUS_AND_TEXT
from infra.local.aws.quotas import OPERATIONS as QUOTA_OPERATIONS
from infra.local.aws.wire import (
    STATUS_LINES,
    ApiError,
    Form,
    Reply,
    Xml,
    ec2_error,
    json_error,
    json_reply,
    query_error,
    query_reply,
    xml_reply,
)
from infra.local.cloud.cloud import Cloud
from infra.local.cloud.faults import Call
from infra.local.cloud.state_reasons import ended_by_user

log = logging.getLogger("pixel-orch.local")
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
_MAX_BODY = 4 * 1024 * 1024
_OTHER_LAUNCHES = {"RequestSpotInstances", "RequestSpotFleet"}
"""Operations with which moto would create instances without a host; they are refused."""
_MOST_ADDRESSES = 5
_STRUCK_BY_POOL = {"RunInstances", "CreateFleet"}
_KEPT_SERVICES = {"iam", "cloudformation"}
_JSON_SERVICES = {"ssm", "pricing", "servicequotas"}
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Overlay:
    """A WSGI application."""

    def __init__(self, cloud: Cloud, access_key_id: str, control: ControlRoutes, state: Path) -> None:
        self._cloud = cloud
        self._access_key_id = access_key_id
        self._control = control
        self._placement = PlacementGroups(cloud)
        self._launcher = Launcher(cloud, self._placement)
        self._fleets = Fleets(cloud, self._launcher)
        self._moto = moto_ec2.application()
        self._s3_api = S3(state / "s3", self._moto, cloud)
        self._journal = RequestJournal(state / "standing.jsonl", self._moto)
        self._ssm_regions: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            if (storage := self._s3(environ, start_response)) is not None:
                return storage
            reply = self._reply(environ)
        except Exception:
            log.exception("internal error of the embedded cloud")
            reply = ec2_error(ApiError("InternalError", "An internal error has occurred", 500))
        headers = [("Content-Type", reply.content_type), ("Content-Length", str(len(reply.body)))]
        start_response(STATUS_LINES.get(reply.status, f"{reply.status} Status"), headers)
        return [reply.body]

    def _s3(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes] | None:
        """Answer an S3 request signed with the account's key or a role's key; return None for any other request."""
        found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        if found is None or found[3] != "s3" or environ.get("PATH_INFO", "/").startswith(CONTROL_PREFIX):
            return None
        self._cloud.last_request = time.monotonic()
        signer = self._cloud.instances.role_of(found[1])
        if signer is None and not secrets.compare_digest(found[1].encode(), self._access_key_id.encode()):
            return None
        with self._cloud.lock:
            self._journal.replay()
        return self._s3_api.answer(environ, start_response, signer)

    def _reply(self, environ: dict[str, Any]) -> Reply:
        path = environ.get("PATH_INFO", "/")
        body = environ["wsgi.input"].read(min(int(environ.get("CONTENT_LENGTH") or 0), _MAX_BODY))
        if path.startswith(CONTROL_PREFIX):
            return self._control.reply(path, body, environ.get("HTTP_X_PIXEL_ORCH_KEY", ""))
        self._cloud.last_request = time.monotonic()
        found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        service = found[3] if found else "ec2"
        signer = self._cloud.instances.role_of(found[1]) if found and service == "sts" else None
        if signer is not None:
            return self._identity(signer, body)
        if found is None or not secrets.compare_digest(found[1].encode(), self._access_key_id.encode()):
            return _unknown_key(service)
        try:
            return self._answer(service, found[2], environ, body)
        except NotImplementedError as error:  # moto does not support it; after a 500 the client would retry
            refusal = ApiError("UnsupportedOperation", f"The embedded cloud does not support this request: {error}")
        except ApiError as error:
            refusal = error
        if service in _JSON_SERVICES:
            return json_error(refusal)
        return (ec2_error if service == "ec2" else query_error)(refusal)

    def _identity(self, signer: tuple[str, str], body: bytes) -> Reply:
        """Answer a request to STS with the keys of an instance's role: the only one is who they are."""
        role, instance_id = signer
        operation = Form.parse(body).get("Action") or ""
        self._cloud.count(operation)
        try:
            self._cloud.faults.strike(Call(operation))
            if operation != "GetCallerIdentity":
                text = f"{role}/{instance_id} is not authorized to perform: sts:{operation}"
                raise ApiError("AccessDenied", text, 403)
        except ApiError as error:
            return query_error(error)
        with self._cloud.lock:
            self._journal.replay()
            user_id = moto_iam.user_id(role, instance_id)
        arn = f"arn:aws:sts::{moto_ec2.ACCOUNT_ID}:assumed-role/{role}/{instance_id}"
        return query_reply(operation, {"Arn": arn, "UserId": user_id, "Account": moto_ec2.ACCOUNT_ID})

    def _answer(self, service: str, region: str, environ: dict[str, Any], body: bytes) -> Reply:
        if region not in spot_market.regions():
            known = ", ".join(spot_market.regions())
            raise ApiError("InvalidParameterValue", f"The embedded cloud has no region '{region}'; it has {known}.")
        with self._cloud.lock:  # moto's records are not thread-safe, and threads would not be faster (GIL)
            if service == "ec2":
                return self._ec2(region, Form.parse(body), environ)
            if service in _KEPT_SERVICES:
                return self._kept(environ, body)
            if service in _JSON_SERVICES:
                operation = str(environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]
                self._cloud.count(operation)
                self._cloud.faults.strike(Call(operation, region=region))
                if service != "ssm":
                    return self._json(service, region, operation, json.loads(body or b"{}"))
                self._update_image_parameters(region)
            return self._pass_on(environ, body)

    def _kept(self, environ: dict[str, Any], body: bytes) -> Reply:
        """Answer a request to IAM or CloudFormation, whose resources outlive this process."""
        operation = Form.parse(body).get("Action") or ""
        self._cloud.count(operation)
        self._cloud.faults.strike(Call(operation))
        if "cloudformation" in environ.get("HTTP_AUTHORIZATION", ""):
            moto_cloudformation.check_installed()
        self._journal.replay()
        self._s3_api.read_back()
        for region in spot_market.regions():
            moto_ec2.backend(region)  # a stack's security group is created in its default VPC
        self._journal.refuse_no_change(body)
        reply = self._pass_on(environ, body)
        if reply.status < 300:
            self._journal.keep(environ, body, operation)
        return reply

    def _json(self, service: str, region: str, operation: str, request: dict[str, Any]) -> Reply:
        """Answer a request for the price list or the quotas, which moto does not support for EC2."""
        if service == "pricing" and operation == "GetProducts":
            answer = price_list.get_products(request)
        elif service == "servicequotas" and operation in QUOTA_OPERATIONS:
            answer = self._cloud.conditions.account.answer(operation, request, region, moto_ec2.ACCOUNT_ID)
        else:
            raise ApiError("UnknownOperationException", f"The embedded cloud does not support {operation}")
        return json_reply(answer)

    def _ec2(self, region: str, form: Form, environ: dict[str, Any]) -> Reply:
        operation = form.get("Action") or ""

        def moto(changed: Form) -> Reply:
            return self._pass_on(environ, changed.encode())

        moto_ec2.backend(region)
        self._cloud.count(operation)
        if any(name.startswith("IamInstanceProfile.") for name in form.values):
            self._journal.replay()
        if operation in _OTHER_LAUNCHES:
            raise ApiError(
                "UnsupportedOperation", "The embedded cloud launches with RunInstances and CreateFleet only."
            )
        if operation not in _STRUCK_BY_POOL:
            self._cloud.faults.strike(Call(operation, region=region, dry_run=form.flag("DryRun")))
            if form.flag("DryRun") and operation.startswith("Describe"):  # moto supports it in some of them only
                raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        ours: dict[str, Callable[[], Reply]] = {
            "RunInstances": lambda: self._launcher.run_instances(
                region, self._fleets.with_template(region, form), moto
            ),
            "CreateFleet": lambda: self._fleets.create_fleet(region, form, moto),
            "CreateLaunchTemplate": lambda: self._fleets.create_template(region, form, moto),
            "CreateLaunchTemplateVersion": lambda: self._fleets.create_template(region, form, moto),
            "DeleteLaunchTemplate": lambda: self._fleets.delete_template(region, form, moto),
            "TerminateInstances": lambda: self._terminate(region, form),
            "DescribeSpotPriceHistory": lambda: spot_price_history.describe_spot_price_history(
                region, form, history=self._cloud.conditions.prices.history
            ),
        }
        for name in ("CreatePlacementGroup", "DescribePlacementGroups", "DeletePlacementGroup"):
            ours[name] = partial(self._placement.answer, name, region, form)
        if operation == "AllocateAddress":
            _check_addresses(region)
        elif operation == "DeleteSecurityGroup":
            self._check_security_group(form.get("GroupId"))
        reply = ours[operation]() if operation in ours else self._by_moto(operation, region, form, moto)
        if operation not in _STRUCK_BY_POOL and reply.status == 200:
            self._cloud.faults.strike(Call(operation, region=region), served=True)
        return reply

    def _by_moto(self, operation: str, region: str, form: Form, moto: Callable[[Form], Reply]) -> Reply:
        """Let moto answer, without the instances that are not visible yet."""
        if operation not in ("DescribeInstances", "DescribeInstanceStatus"):
            return moto(form)
        self._cloud.instances.hide(form.numbered("InstanceId"))
        with moto_ec2.without(region, self._cloud.instances.hidden_ids()):
            return moto(form)

    def _check_security_group(self, group_id: str | None) -> None:
        """Refuse to delete a security group that an instance has, until that is terminated; moto would delete it."""
        for record in self._cloud.instances.all():
            groups = {one.id for nic in record.nics.values() for one in nic.group_set}
            if record.state != "terminated" and group_id in groups:
                raise ApiError("DependencyViolation", f"resource {group_id} has a dependent object")

    def _terminate(self, region: str, form: Form) -> Reply:
        """TerminateInstances: all or none. moto's ends instances at once and imports two more services (1 s)."""
        ids = form.numbered("InstanceId")
        if not ids:
            raise ApiError("InvalidParameterCombination", "No instances specified")
        try:
            records = moto_ec2.backend(region).get_multi_instances_by_id(ids)
        except moto_ec2.ServiceException as error:
            raise ApiError(error.code, error.message) from error
        if form.flag("DryRun"):
            raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        changes: list[Xml] = []
        for record in records:
            if record.disable_api_termination:
                raise ApiError(
                    "OperationNotPermitted",
                    f"The instance '{record.id}' may not be terminated. Modify its 'disableApiTermination' instance"
                    " attribute and try again.",
                )
            before = _state(record)
            if record.state == "stopped":
                record.set_state("running", 16)
            self._cloud.end(record, ended_by_user())
            changes.append({"instanceId": record.id, "currentState": _state(record), "previousState": before})
        return xml_reply("TerminateInstances", {"instancesSet": changes})

    def _update_image_parameters(self, region: str) -> None:
        """Add or remove the image parameters of a region as the faults require."""
        if region in self._cloud.conditions.without_images:
            self._ssm_regions.discard(region)
            moto_ssm.remove_image_parameters(region)
        elif region not in self._ssm_regions:
            self._ssm_regions.add(region)
            moto_ssm.add_image_parameters(region)

    def _pass_on(self, environ: dict[str, Any], body: bytes) -> Reply:
        """Pass a request to moto."""
        inner = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        answered: dict[str, Any] = {}

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            answered["status"] = int(status.split(" ", 1)[0])
            answered["type"] = dict(headers).get("Content-Type", "text/xml")

        content = b"".join(self._moto(inner, start_response))
        return Reply(answered["status"], answered["type"], content)

    def warm_up(self) -> None:
        """Load models and create the default VPC in advance, so that the first request does not wait for them."""
        scope = f"Credential={self._access_key_id}/20260101/{spot_market.regions()[0]}/ec2/aws4_request, Signature=0"
        for operation in ("DescribeInstances", "DescribeSecurityGroups"):
            body = f"Action={operation}&Version=2016-11-15".encode()
            environ = {
                "REQUEST_METHOD": "POST",
                "PATH_INFO": "/",
                "QUERY_STRING": "",
                "SERVER_NAME": "127.0.0.1",
                "SERVER_PORT": "80",
                "HTTP_HOST": "127.0.0.1",
                "wsgi.url_scheme": "http",
                "CONTENT_TYPE": "application/x-www-form-urlencoded",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 {scope}",
                "wsgi.input": io.BytesIO(body),
                "wsgi.errors": io.StringIO(),
            }
            self._reply(environ)


def _check_addresses(region: str) -> None:
    """Refuse one more elastic address than EC2's default quota."""
    if moto_ec2.addresses(region) >= _MOST_ADDRESSES:
        raise ApiError("AddressLimitExceeded", STATUS_AND_TEXT["AddressLimitExceeded"][1])


def _state(record: Any) -> dict[str, Xml]:
    return {"code": str(record.state_code), "name": record.state}


def _unknown_key(service: str) -> Reply:
    """Return AWS's answer for an unknown access key; the status depends on the service."""
    if service == "ec2":
        return ec2_error(ApiError("AuthFailure", "AWS was not able to validate the provided access credentials", 401))
    text = "The security token included in the request is invalid."
    if service in _JSON_SERVICES:
        return json_error(ApiError("UnrecognizedClientException", text, 400))
    return query_error(ApiError("InvalidClientTokenId", text, 403))
