"""A JSON body: `{"source", "data": [...], "useResumable", options…}`, or the bare array of contacts.

What it says beside its contacts is found while it arrives (`members`). A body that came whole is judged before it is
stored, by the rules and the reader that files go through, piece by piece. Of a longer one, what it says has to stand
before `data`: it is stored as it comes, and the worker cpu_slots it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import orjson

from rollcall.errors import InvalidInput, NoRecords, Unreadable
from rollcall.options import GIVEN, NAMES, Options
from rollcall.records import Mapping, Part, Plan, inspect, message, parts
from rollcall.web.import_request import ISSUES_MAX, ImportRequest, misspelt, parse_request, refused, twice
from rollcall.web.members import MEMBER_BYTES_MAX, Member, Members
from rollcall.web.responses import issue

JUDGED_RECORDS = 2000
"""Records that are judged without a pause: others have their turn in between."""
ISSUES_COUNTED = 10_000
"""With so many contacts that are not valid, nobody needs to know how many more there are."""
_LATE = "In a JSON body above 16 MiB, source and options stand before data, or in the query."


def parse_whole(members: Members, given: dict[str, str], body: BinaryIO) -> ImportRequest:
    """What a body that came whole asks for; `given` (in query and headers) stands over it. Raises InvalidInput."""
    if not members.opening:
        raise InvalidInput("The body is empty. Send an object with source and data, or an array of contacts.")
    if members.opening == b"{" and not members.complete:
        raise InvalidInput("The body is not valid JSON: it ends too early.")
    issues: list[dict[str, Any]] = []
    if members.opening == b"{":
        issues = _data_issues([member for member in members.members if member.name == "data"])
    try:
        if members.opening not in (b"{", b"["):
            text = 'The body is an object {"source": …, "data": [contacts]}, or an array of contacts.'
            raise refused([issue("body", "invalid_type", text)])
        return _parse(members.members, given, issues)
    except InvalidInput:
        _check_syntax(body)  # more of use than what is missing because of it
        raise


def parse_head(members: Members, given: dict[str, str]) -> ImportRequest:
    """What a long body asks for, by what stands before `data`. Raises InvalidInput."""
    if members.opening not in (b"{", b"["):
        raise InvalidInput('The body is an object with an array named "data", or an array of contacts.')
    names = [member.name for member in members.members]
    if "data" not in names and members.opening == b"{":
        begun = members.begun()
        if begun is None or begun.name != "data" or not (begun.value or b"").startswith(b"["):
            raise InvalidInput('The array "data" does not begin within the first 16 MiB of the body.')
    first = members.members[: len(names) if "data" not in names else names.index("data")]
    if "source" not in given and not any(member.name == "source" for member in first):
        raise refused([issue("source", "required", _LATE)])
    check_tail(members)
    return _parse(first, given, [])


def check_tail(members: Members) -> None:
    """Raises InvalidInput when an option stands after `data`, where it comes too late."""
    names = [member.name for member in members.members]
    late = names[names.index("data") + 1 :] if "data" in names else []
    issues = [issue(name, "too_late", f"{name} stands after data. {_LATE}") for name in late if name in GIVEN]
    if issues := issues + misspelt(late):
        raise refused(issues)


def judge(body: BinaryIO, options: Options) -> Iterator[None]:
    """Judge a whole body piece by piece; between two of them others have their turn.

    Raises InvalidInput at the end: for JSON that is broken; under onInvalid=fail for any contact that is not valid.
    """
    issues: list[dict[str, Any]] = []
    total = 0
    try:
        plan = _plan(body, options)
        yield
        body.seek(0)
        for part in parts(body, plan, part_records=JUDGED_RECORDS):
            if options.on_invalid == "fail":
                issues += _issues(part, ISSUES_MAX - len(issues))
                total += part.rejects.num_rows
            if total >= ISSUES_COUNTED:
                break
            yield
    except NoRecords as error:
        raise refused([issue("data", "too_small", "data is empty: it needs at least one contact.")]) from error
    except Unreadable as error:
        raise InvalidInput(str(error), issues=[issue("data", "invalid_value", str(error))]) from error
    if total:
        what = "contact is" if total == 1 else "contacts are"
        more = " or more" if total >= ISSUES_COUNTED else ""
        raise InvalidInput(f"{total:,}{more} {what} not valid; nothing was imported.", issues=issues, issuesTotal=total)


def _issues(part: Part, count: int) -> Iterator[dict[str, Any]]:
    for reject in part.rejects.slice(0, count).to_pylist():
        path = ["data", reject["record"] - 1, *([reject["field"]] if reject["field"] else [])]
        yield {
            "path": path,
            "code": reject["code"],
            "message": message(reject["code"], reject["field"], reject["value"]),
        }


def _parse(members: list[Member], given: dict[str, str], issues: list[dict[str, Any]]) -> ImportRequest:
    names = [member.name for member in members]
    issues = issues + misspelt(names) + [twice(name) for name in GIVEN if names.count(name) > 1]
    found: dict[str, Any] = {}
    for member in members:
        if member.name in GIVEN and member.value is None:
            issues.append(issue(member.name, "too_big", f"{member.name} is longer than {MEMBER_BYTES_MAX:,} bytes."))
        elif member.name in GIVEN:
            value = member.loads()
            found[member.name] = value if isinstance(value, str) or member.name not in NAMES else _text(member)
    asked = parse_request(found | given, issues, on_invalid="fail")
    if asked.options.format not in (None, "json"):
        raise refused([issue("format", "invalid_value", "The format of a JSON body is json.")])
    # The worker need not find out that it is JSON.
    return replace(asked, options=replace(asked.options, format="json"))


def _text(member: Member) -> str:
    return (member.value or b"").decode(errors="replace")


def _data_issues(data: list[Member]) -> list[dict[str, Any]]:
    if not data:
        return [issue("data", "required", "data is missing: an array of contacts.")]
    value = data[0].value
    if value is not None and not value.startswith(b"["):
        return [issue("data", "invalid_type", "data is an array of contacts.")]
    if value is not None and not value[1:-1].strip():
        return [issue("data", "too_small", "data is empty: it needs at least one contact.")]
    return []


def _check_syntax(body: BinaryIO) -> None:
    body.seek(0)
    text = body.read(MEMBER_BYTES_MAX + 1)
    if len(text) <= MEMBER_BYTES_MAX:
        try:
            orjson.loads(text.removeprefix(b"\xef\xbb\xbf"))
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"The body is not valid JSON: {error}") from None


def _plan(body: BinaryIO, options: Options) -> Plan:
    """As the worker will read it; when no key is an address or a name, by the contract's own keys."""
    body.seek(0)
    if options.mapping is None:
        try:
            return inspect(body, format="json")
        except NoRecords:
            raise
        except Unreadable:
            return Plan("json", "none", ("name", "email"), Mapping("email", ("name",)))
    try:
        return inspect(body, format="json", mapping=options.mapping)
    except Unreadable as error:
        raise refused([issue("mapping", "invalid_value", str(error))]) from error
