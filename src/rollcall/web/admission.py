"""Who may begin to send a body: decided by the head of a request, before its first byte is waited for.

How many of one sender may arrive is counted by the database (`receive.one_request`). Bodies are bounded by memory and
not by their number: what each of them holds is small wherever it goes (JSON that is to be judged lies in a file from
SPOOL_BYTES on), and no more come than there are connections.
"""

from __future__ import annotations

from rollcall.errors import Forbidden, InvalidInput
from rollcall.keys import Caller
from rollcall.options import check_label
from rollcall.web.responses import issue

SPOOL_BYTES = 64 << 10
"""How much of a JSON body is held in memory."""


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
