"""Who may begin to send a body: decided by the head of a request, before its first byte is waited for.

Bodies are bounded by memory and not by their number: what each of them holds is small wherever it goes (JSON that is to
be judged lies in a file from SPOOL_BYTES on), and no more come than there are connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from rollcall.errors import Forbidden, InvalidInput, TooManyRequests
from rollcall.keys import Caller
from rollcall.options import check_label
from rollcall.web.responses import issue

SPOOL_BYTES = 64 << 10
"""How much of a JSON body is held in memory."""


class Admission:
    """The bodies that this process takes in. Limits across processes are the database's (`receive`)."""

    def __init__(self) -> None:
        self._arriving: Counter[str | None] = Counter()

    @contextmanager
    def place(self, caller: Caller, limit: int) -> Generator[None, None, None]:
        """A place for one body of this caller. Raises TooManyRequests when `limit` of them are arriving."""
        if self._arriving[caller.name] >= limit:
            raise TooManyRequests(
                f"{limit} uploads are arriving already (MAX_ARRIVING_UPLOADS). Send this one when one of them is done."
            )
        self._arriving[caller.name] += 1
        try:
            yield
        finally:
            self._arriving[caller.name] -= 1
            if not self._arriving[caller.name]:
                del self._arriving[caller.name]


def allow(caller: Caller, given: dict[str, str]) -> None:
    """Refuse a Source that the key is not bound to, as early as it is named. Raises Forbidden."""
    if "source" not in given:
        return
    try:
        source = check_label(given["source"])
    except InvalidInput:
        return  # refused as such, with everything else that is wrong
    if not caller.may_use(source):
        text = "This key may not import into this source."
        raise Forbidden(text, issues=[issue("source", "forbidden", text)])
