"""A JSON body `{"source", "data": [...], "useResumable", options…}`: what it wishes, and what is wrong with it.

A body that was read whole is judged whole, by the rules and the reader that files go through, before anything of it is
stored. Of a longer one only the head is looked at: what stands before `data`. Nothing here reads or stores.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import ijson
import orjson

from rollcall.errors import InvalidInput, Unreadable
from rollcall.options import NAMES, Options
from rollcall.records import Mapping, Plan, inspect, message, parts
from rollcall.web.responses import issue

SOURCE_LENGTH_MAX = 100
ISSUES_MAX = 100


@dataclass(frozen=True)
class ImportRequest:
    """What a request asks for besides its bytes."""

    source: str
    options: Options
    resumable: bool


def parse_request(given: dict[str, Any], issues: list[dict[str, Any]] | None = None, **defaults: Any) -> ImportRequest:
    """From `source`, `useResumable` and options by their public names. `defaults`: of `Options.parse`.

    Raises InvalidInput with one issue for every value that cannot be used, after those in `issues`.
    """
    issues = source_issues(given) + (issues or [])
    resumable = given.get("useResumable", False)
    if isinstance(resumable, str):
        resumable = {"true": True, "false": False}.get(resumable.lower(), resumable)
    if not isinstance(resumable, bool):
        issues.append(issue("useResumable", "invalid_type", "useResumable is true or false."))
    texts = {name: _text(given[name]) for name in NAMES if name in given}
    try:
        options = Options.parse(texts, **defaults)
    except InvalidInput as error:
        raise invalid_input(issues + (error.issues or [])) from None
    if issues:
        raise invalid_input(issues)
    return ImportRequest(given["source"], options, resumable)


def invalid_input(issues: list[dict[str, Any]]) -> InvalidInput:
    """The error that says these issues, and the first of them in its own message."""
    return InvalidInput(f"The request is not valid: {issues[0]['message']}", issues=issues)


def source_issues(given: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wrong with the source; nothing, as a rule."""
    source = given.get("source")
    if source is None:
        return [issue("source", "required", "source is missing: say where these contacts come from.")]
    if not isinstance(source, str):
        return [issue("source", "invalid_type", "source is a text.")]
    if not source.strip():
        return [issue("source", "too_small", "source is empty: say where these contacts come from.")]
    if len(source) > SOURCE_LENGTH_MAX:
        return [issue("source", "too_big", f"source has at most {SOURCE_LENGTH_MAX} characters.")]
    if any(character < " " or character == "\x7f" for character in source):
        return [issue("source", "control_character", "source contains a control character. Remove it.")]
    return []


def read(body: bytes, query: dict[str, str]) -> ImportRequest:
    """What a whole body wishes. What stands in the query stands over the body.

    Raises InvalidInput: for the shape of the body; under onInvalid=fail, the default, for any contact in it.
    """
    try:
        envelope = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is not valid JSON: {error}") from None
    if not isinstance(envelope, dict):
        raise invalid_input(
            [issue("body", "invalid_type", 'The body is an object: {"source": …, "data": [contacts]}.')]
        )
    found = _json(parse_request(envelope | query, _data_issues(envelope), on_invalid="fail"))
    del envelope  # it may take ten times the room of the body
    if found.options.on_invalid == "fail":
        _judge(body, found.options)
    return found


def head(beginning: bytes, query: dict[str, str]) -> ImportRequest:
    """What a long body wishes, by the keys before `data` and the query. Raises InvalidInput."""
    builder, depth = ijson.ObjectBuilder(), 0
    try:
        for event, value in ijson.basic_parse(io.BytesIO(beginning), use_float=True):
            if depth == 1 and (event, value) == ("map_key", "data"):
                break
            depth += {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}.get(event, 0)
            builder.event(event, value)
        else:
            raise InvalidInput('The body is an object with an array named "data".')
    except ijson.IncompleteJSONError as error:
        raise InvalidInput('The array "data" does not begin within the first 16 MiB of the body.') from error
    except ijson.JSONError as error:
        raise InvalidInput("The body is not valid JSON.") from error
    given = builder.value | query
    if "source" not in given:
        where = "In a body above 16 MiB, source and options stand before data, or in the query."
        raise invalid_input([issue("source", "required", where)])
    return _json(parse_request(given, on_invalid="fail"))


def _json(found: ImportRequest) -> ImportRequest:
    """The worker need not find out that it is JSON."""
    if found.options.format not in (None, "json"):
        raise invalid_input([issue("format", "invalid_value", "The format of a JSON body is json.")])
    return replace(found, options=replace(found.options, format="json"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _data_issues(envelope: dict[str, Any]) -> list[dict[str, Any]]:
    if "data" not in envelope:
        return [issue("data", "required", "data is missing: an array of contacts.")]
    if not isinstance(envelope["data"], list):
        return [issue("data", "invalid_type", "data is an array of contacts.")]
    if not envelope["data"]:
        return [issue("data", "too_small", "data is empty: it needs at least one contact.")]
    return []


def _judge(body: bytes, options: Options) -> None:
    issues: list[dict[str, Any]] = []
    total = 0
    try:
        for part in parts(io.BytesIO(body), _plan(body, options)):
            for reject in part.rejects.slice(0, ISSUES_MAX - len(issues)).to_pylist():
                path = ["data", reject["record"] - 1, *([reject["field"]] if reject["field"] else [])]
                text = message(reject["code"], reject["field"])
                issues.append({"path": path, "code": reject["code"], "message": text})
            total += part.rejects.num_rows
    except Unreadable as error:
        raise InvalidInput(str(error), issues=[issue("data", "invalid_value", str(error))]) from error
    if total:
        what = "contact is" if total == 1 else "contacts are"
        raise InvalidInput(f"{total:,} {what} not valid; nothing was imported.", issues=issues, issuesTotal=total)


def _plan(body: bytes, options: Options) -> Plan:
    """As the worker will read it; when no key is an address or a name, by the contract's own keys."""
    if options.mapping is None:
        try:
            return inspect(io.BytesIO(body), format="json")
        except Unreadable:
            return Plan("json", "none", ("name", "email"), Mapping("email", ("name",)))
    try:
        return inspect(io.BytesIO(body), format="json", mapping=options.mapping)
    except Unreadable as error:
        raise invalid_input([issue("mapping", "invalid_value", str(error))]) from error
