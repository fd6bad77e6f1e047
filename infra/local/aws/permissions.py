"""The evaluation of a role's policies for S3 requests. Pure.

It covers a part of IAM's evaluation (IAM User Guide, "Policy evaluation logic"): an explicit Deny wins, else one Allow
is needed, and one of the permissions boundary too; actions and resources may have wildcards and policy variables. The
conditions are those on strings, ARNs, booleans and missing keys. An Allow with another condition does not apply, and a
Deny with another one does, so that a request is refused in case of doubt.
"""

import re
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


def may(
    policies: Iterable[Mapping[str, Any]],
    action: str,
    resource: str,
    context: Mapping[str, str],
    *,
    boundary: Mapping[str, Any] | None = None,
) -> bool:
    """Whether the policies of a principal allow an action.

    Args:
        policies: of the principal.
        action: for example s3:GetObject.
        resource: an ARN.
        context: condition keys and their values; policy variables are taken from it too.
        boundary: the permissions boundary of the principal: it must allow the action as well.
    """
    known = {key.lower(): value for key, value in context.items()}
    answers = [_decision(policies, action, resource, known)]
    if boundary is not None:
        answers.append(_decision([boundary], action, resource, known))
    return all(answer is True for answer in answers)


def _decision(
    policies: Iterable[Mapping[str, Any]], action: str, resource: str, context: Mapping[str, str]
) -> bool | None:
    """Return True for an Allow, False for an explicit Deny, None if no statement applies."""
    allowed: bool | None = None
    for policy in policies:
        for statement in _listed(policy.get("Statement")):
            if not _covers(statement, action, resource, context):
                continue
            conditions = statement.get("Condition") or {}
            if statement.get("Effect") == "Deny":
                if _holds(conditions, context, unknown=True):
                    return False
            elif _holds(conditions, context, unknown=False):
                allowed = True
    return allowed


def _covers(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    def is_action(key: str) -> bool:
        return any(_like(action.lower(), str(one).lower()) for one in _listed(statement.get(key)))

    def is_resource(key: str) -> bool:
        return any(_like(resource, one) for one in _filled(statement.get(key), context))

    by_action = not is_action("NotAction") if "NotAction" in statement else is_action("Action")
    return by_action and (not is_resource("NotResource") if "NotResource" in statement else is_resource("Resource"))


_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NO_VALUE = "\0"  # matches nothing that a request can hold


def _filled(values: Any, context: Mapping[str, str]) -> list[str]:
    """Return patterns with their policy variables filled in; a wildcard in a variable's value is only a character.

    A pattern whose variable has no value in this request matches nothing (IAM User Guide, "Variables and tags").
    """

    def value(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(",")
        if name in ("*", "?", "$"):
            return _escaped(name)
        found = context.get(name.strip().lower(), default.strip().strip("'") or None)
        return _NO_VALUE if found is None else _escaped(found)

    return [_VARIABLE.sub(value, str(one)) for one in _listed(values)]


_STARS = {"*": "\1", "?": "\2"}


def _escaped(text: str) -> str:
    return "".join(_STARS.get(letter, letter) for letter in text)


def _plain(text: str) -> str:
    return text.replace("\1", "*").replace("\2", "?")


def _like(value: str, pattern: str) -> bool:
    """Whether a value matches a pattern with `*` and `?`; no other character is special."""
    words = [{"*": ".*", "?": "."}.get(letter, re.escape(_plain(letter))) for letter in pattern]
    return re.fullmatch("".join(words), value, re.DOTALL) is not None


def _is_one_of(operator: str, value: str, wanted: Any, context: Mapping[str, str]) -> bool | None:
    """Return whether an operator holds between a value and any of the wanted ones; None for an unknown operator."""
    patterns = _filled(wanted, context)
    match operator:
        case "StringEquals":
            return value in [_plain(one) for one in patterns]
        case "StringEqualsIgnoreCase":
            return value.lower() in [_plain(one).lower() for one in patterns]
        case "StringLike" | "ArnLike" | "ArnEquals":
            return any(_like(value, one) for one in patterns)
        case "Bool":
            return value.lower() in [_plain(one).lower() for one in patterns]
        case _:
            return None


_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotLike": "ArnLike",
    "ArnNotEquals": "ArnEquals",
}


def _holds(conditions: Mapping[str, Any], context: Mapping[str, str], *, unknown: bool) -> bool:
    return all(
        _holds_for(operator, key, wanted, context, unknown=unknown)
        for operator, pairs in conditions.items()
        for key, wanted in pairs.items()
    )


def _holds_for(operator: str, key: str, wanted: Any, context: Mapping[str, str], *, unknown: bool) -> bool:
    """Whether one condition holds. A missing key fails, except with a negation, `...IfExists` and `Null`."""
    value = context.get(key.lower())
    if operator == "Null":
        return str(value is None).lower() in [str(one).lower() for one in _listed(wanted)]
    base = operator.removesuffix("IfExists")
    is_negated = base in _NEGATED
    answer = _is_one_of(_NEGATED.get(base, base), value or "", wanted, context)
    if answer is None:
        return unknown
    return answer != is_negated if value is not None else is_negated or base != operator


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
