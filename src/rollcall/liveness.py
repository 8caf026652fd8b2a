"""How long a part of Rollcall may be silent, and how long the others wait for it: the numbers that must fit together.

Read them as `liveness.NAME` where they are used. An operator sees some of them in docs/operations.md.
"""

BEAT_SECONDS = 5.0
"""How often a worker writes its beat, a request renews the `seen_at` of its Upload, and `up` checks its children."""
STALE_SECONDS = 4 * BEAT_SECONDS
"""A process that was silent for this long counts as frozen. One lost or slow beat is not enough."""
GRACE_SECONDS = 1.0
"""Between two checks of a worker's free lock: the worker may just be reconnecting."""
START_SECONDS = 60.0
"""How long a process may take to its first sign of life. WatchdogSec of the systemd units is the same."""

ANSWER_SECONDS = 120.0
"""Limit of the answer to one statement. A pooler can accept bytes and stall; no TCP or server timeout detects that. The
longest statement loads a batch, in a small part of this. Has to be longer than `lock_timeout`: after that one, the
caller ends the sessions that it waits for."""
PATIENCE_SECONDS = 300.0
"""How long the database or the store may be away before a worker releases its import, and then ends."""
FULL_PATIENCE_SECONDS = 10.0
"""The same for a database that answers but is full: the import shows that to people soon."""
NO_PROGRESS_SECONDS = 900.0
"""How long an import may make no progress. Longer than all of the above: an outage of the database is not its fault."""
