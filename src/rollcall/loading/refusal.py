"""What it means that the table `contacts` does not take what it is given: all of it, or one contact.

Users may change that table: add indexes, constraints, triggers, and columns of other types.
"""

from __future__ import annotations

import psycopg

from rollcall.errors import ContactsRefused

REFUSALS = {
    "23": "a constraint that is not Rollcall's",
    "P0": "a trigger raises an error",
    "27": "a trigger changes the contacts that are being written",
    "0A": "it has a rule, or another feature that an import cannot live with",
    "42501": "this user may not write to it",
    "42": "it lacks a column or an index, or another type stands in its place",
    "22P03": "a column has another type",
    "08P01": "a column has another type",
    "44": "a view's check option",
}
"""By the first characters of the SQLSTATE."""
NOT_UNIQUE = (
    "The table contacts has no unique index on (source, email) any more."
    " Create it: create unique index on public.contacts (source, email)."
)
TRIGGERED = (
    "A trigger of the table contacts leaves out contacts that an import writes, or gives them other addresses."
    " Nothing of them was kept. Drop or change the trigger, and retry the import."
)
NOT_STORABLE_FAILS = (
    "Postgres cannot store one of the contacts: it is too large, or an index or a column does not take it. With"
    " onInvalid=skip its record is rejected, and all others are loaded"
)
FORMAT_ERRORS = ("22P03", "22P04")
"""What was sent does not fit the table, or is no COPY data: no fault of one row."""


def refusal(error: psycopg.Error) -> ContactsRefused | None:
    """Why `contacts` does not take what it was given, if it is the table that refuses. Names no contact."""
    state = error.sqlstate or ""
    why = next((why for begin, why in REFUSALS.items() if state.startswith(begin)), None)
    lost = state.startswith("08") and error.diag.severity_nonlocalized != "ERROR"  # 08P01 may also end the connection
    if why is None or lost:
        return None
    return ContactsRefused(f"The table contacts refuses what this import writes: {why} (SQLSTATE {state}).")


def is_not_storable(error: psycopg.Error) -> bool:
    """Whether one row may be the reason: its values cannot be stored, or it is beyond a limit of Postgres.

    Classes 22 (data exception) and 54 (program limit exceeded). A value of more than 1 GB has no SQLSTATE of its own.
    """
    state = error.sqlstate or ""
    if state == "XX000":
        return (error.diag.message_primary or "").startswith("invalid memory alloc request size")
    return state.startswith(("22", "54")) and state not in FORMAT_ERRORS
