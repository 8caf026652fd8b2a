"""Source and options of a request to import: from the query, headers, fields of a form, or a JSON envelope.

Every value is used or refused. A misspelt option is refused everywhere: `onInvald=fail` must not import invalid
Records. Other unknown names are refused in the query only; elsewhere they belong to the sender (a button of a form, a
note in an envelope).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from rollcall.errors import InvalidInput
from rollcall.options import DRY_RUN, GIVEN, IDEMPOTENCY_KEY, NAMES, Options, check_label, nearly
from rollcall.web.responses import issue

HEADERS = {"source": "x-source", "useResumable": "x-use-resumable"}
IDEMPOTENCY_KEY_LENGTH_MAX = 255
QUERY_NAMES_MAX = 100
ISSUES_MAX = 100
NAME_SHOWN = 40


@dataclass(frozen=True)
class ImportRequest:
    """What a request asks for, without its bytes. `source`: as it is stored."""

    source: str
    options: Options
    resumable: bool


def parse_request(given: dict[str, Any], issues: list[dict[str, Any]] | None = None, **defaults: Any) -> ImportRequest:
    """Parse `source`, `useResumable` and options, given by their public names. `defaults`: for `Options.parse`.

    Raises InvalidInput with one issue for every value that cannot be used, followed by `issues`.
    """
    source, found = source_of(given)
    resumable = given.get("useResumable", False)
    if isinstance(resumable, str):
        resumable = {"true": True, "false": False}.get(resumable.lower(), resumable)
    if not isinstance(resumable, bool):
        found.append(issue("useResumable", "invalid_type", "useResumable is true or false."))
    found += issues or []
    options = Options()
    try:
        options = Options.parse({name: given[name] for name in NAMES if name in given}, **defaults)
    except InvalidInput as error:
        found += error.issues or []
    if found:
        raise refused(found)
    return ImportRequest(source, options, resumable)


def source_of(given: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The Source as it is stored, and the issues with it, mostly none."""
    source = given.get("source")
    if source is None:
        return "", [issue("source", "required", "source is missing: say where these contacts come from.")]
    if not isinstance(source, str):
        return "", [issue("source", "invalid_type", "source is a text.")]
    try:
        return check_label(source), []
    except InvalidInput as error:
        return "", error.issues or []


def refused(issues: list[dict[str, Any]], total: int = 0) -> InvalidInput:
    """The error with the first ISSUES_MAX issues and the message of the first. `total`: if more than given."""
    total = max(total, len(issues))
    more = {"issuesTotal": total} if total > ISSUES_MAX else {}
    return InvalidInput(f"The request is not valid: {issues[0]['message']}", issues=issues[:ISSUES_MAX], **more)


def misspelt(names: Iterable[str]) -> list[dict[str, Any]]:
    """An issue for each name that misspells an option."""
    return [_meant(name, option) for name in names if (option := nearly(name))]


def twice(name: str) -> dict[str, Any]:
    """The issue for an option that is given twice in one place."""
    return issue(name, "duplicate", f"{name} is given twice. Give it once.")


def query_of(query: bytes) -> dict[str, str]:
    """The values of a query string by name. Raises InvalidInput for an unknown name, a name that comes twice, and text
    that is not UTF-8."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict", encoding="utf-8")
    except UnicodeError as error:
        text = "The query is not valid UTF-8. Encode it as UTF-8, and percent-encode that."
        raise refused([issue("query", "invalid_utf8", text)]) from error
    names = [name for name, _ in pairs]
    unknown = [name for name in names if name not in GIVEN]
    issues = [_unknown(name) for name in unknown[:ISSUES_MAX]]
    issues += [twice(name) for name in GIVEN if names.count(name) > 1]
    if issues:
        raise refused(issues, len(unknown))
    return dict(pairs)


def headers_of(headers: Headers) -> dict[str, str]:
    """The values of the headers X-Source and X-Use-Resumable, by option. Raises InvalidInput, also for a header that
    misspells one of them, and for an option that has no header."""
    ours = {*HEADERS.values(), IDEMPOTENCY_KEY.lower()}
    issues = []
    for name in dict.fromkeys(headers.keys()):
        if name in ours or not name.startswith(("x-", "idempot")):
            continue
        plain = name.removeprefix("x-")
        if option := plain if plain in NAMES else nearly(plain):
            place = (
                f"the query: ?{option}=…" if option in NAMES else f"the header {HEADERS.get(option, option).title()}"
            )
            text = f"There is no header {shortened(name)}. {option} stands in {place}."
            issues.append(issue(shortened(name), "unknown", _NO_DRY_RUN if option == DRY_RUN else text))
    if issues:
        raise refused(issues)
    found = {name: _one(headers, header, header.title()) for name, header in HEADERS.items()}
    return {name: text for name, text in found.items() if text is not None}


def idempotency_key_of(headers: Headers) -> str | None:
    """The Idempotency-Key, 1 to 255 characters, or None. Raises InvalidInput."""
    key = _one(headers, IDEMPOTENCY_KEY, IDEMPOTENCY_KEY)
    if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX:
        text = f"Idempotency-Key is one text of 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} characters."
        raise refused([issue(IDEMPOTENCY_KEY, "invalid_value", text)])
    return key


def _one(headers: Headers, header: str, shown: str) -> str | None:
    values = headers.getlist(header)
    if len(values) > 1:
        raise refused([twice(shown)])
    try:
        # Starlette decodes headers as Latin-1 (RFC 9110, 5.5); clients send UTF-8.
        return values[0].encode("latin-1").decode() if values else None
    except UnicodeError as error:
        raise refused([issue(shown, "invalid_utf8", f"{shown} is not valid UTF-8.")]) from error


_NO_DRY_RUN = "An import cannot be tried without writing. Use `rollcall check FILE`, which writes nothing."


def _meant(name: str, option: str) -> dict[str, Any]:
    text = (
        _NO_DRY_RUN if option == DRY_RUN else f"{shortened(name)} is not an option. Write {option}, if that is meant."
    )
    return issue(shortened(name), "unknown", text)


def _unknown(name: str) -> dict[str, Any]:
    if option := nearly(name):
        return _meant(name, option)
    return issue(shortened(name), "unknown", f"{shortened(name)} is not an option. There are {', '.join(GIVEN)}.")


def shortened(name: str) -> str:
    """A sender's name, cut for an error message."""
    return name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}…"
