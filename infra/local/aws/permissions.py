"""The evaluation of a role's policies for S3 requests. Pure.

It covers a small part of IAM's evaluation (IAM User Guide, "Policy evaluation logic"): an explicit Deny wins, else one
Allow is needed; actions and resources may have wildcards. An Allow with an unsupported condition does not apply, and a
Deny with an unsupported condition does, so that a request is refused in case of doubt.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any


def action_of(method: str, key: str, query: Mapping[str, str]) -> tuple[str, str]:
    """Return (API operation, IAM action) of a request for a bucket (`key` empty) or an object."""
    if not key:
        if "uploads" in query:
            return "ListMultipartUploads", "s3:ListBucketMultipartUploads"
        by_method = {
            "HEAD": ("HeadBucket", "s3:ListBucket"),
            "GET": ("ListObjectsV2", "s3:ListBucket"),
            "PUT": ("CreateBucket", "s3:CreateBucket"),
            "DELETE": ("DeleteBucket", "s3:DeleteBucket"),
            "POST": ("DeleteObjects", "s3:DeleteObject"),
        }
        return by_method.get(method, ("Unknown", "s3:Unknown"))
    if method == "DELETE":
        aborts = "uploadId" in query
        return ("AbortMultipartUpload", "s3:AbortMultipartUpload") if aborts else ("DeleteObject", "s3:DeleteObject")
    if method == "PUT":
        return ("UploadPart" if "uploadId" in query else "PutObject"), "s3:PutObject"
    if method == "POST":
        return ("CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"), "s3:PutObject"
    return ("HeadObject" if method == "HEAD" else "GetObject"), "s3:GetObject"


def may(policies: Iterable[Mapping[str, Any]], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether these policies allow the action on the resource (an ARN); `context` maps condition keys to values."""
    allowed = False
    for policy in policies:
        for statement in _listed(policy.get("Statement")):
            if not _covers(statement, action, resource):
                continue
            conditions = statement.get("Condition") or {}
            if statement.get("Effect") == "Deny":
                if _holds(conditions, context, unknown=True):
                    return False
            elif _holds(conditions, context, unknown=False):
                allowed = True
    return allowed


def _covers(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    actions = [str(one).lower() for one in _listed(statement.get("Action"))]
    resources = [str(one) for one in _listed(statement.get("Resource"))]
    return any(fnmatch.fnmatchcase(action.lower(), one) for one in actions) and any(
        fnmatch.fnmatchcase(resource, one) for one in resources
    )


def _holds(conditions: Mapping[str, Any], context: Mapping[str, str], *, unknown: bool) -> bool:
    for operator, pairs in conditions.items():
        for key, wanted in pairs.items():
            if operator not in ("StringLike", "StringEquals", "Bool") or key not in context:
                return unknown
            if not any(fnmatch.fnmatchcase(context[key], str(one)) for one in _listed(wanted)):
                return False
    return True


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
