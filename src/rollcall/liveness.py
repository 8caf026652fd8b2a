"""How long a part of Rollcall may be silent, and how long the others wait for it: the numbers that must fit together.

Read them as `liveness.NAME` where they are used. An operator sees some of them in docs/operations.md.
"""

BEAT_SECONDS = 5.0
"""How often somebody who works says so: a worker of itself, a request of the Upload that it receives, and how often
`up` looks at its children."""
STALE_SECONDS = 4 * BEAT_SECONDS
"""Whoever was silent for this long is frozen. One lost beat, or one slow commit of it, is not enough."""
GRACE_SECONDS = 1.0
"""Between two looks at a worker's lock that nobody holds: the worker may just be dialling again."""
START_SECONDS = 60.0
"""What a process may take for its first sign of life; systemd's WatchdogSec is the same."""

ANSWER_SECONDS = 120.0
"""For the answer to one statement. A pooler between may take our bytes and pass none on: no timeout of TCP or of the
server ends that. The longest statement loads a batch, in a small part of this. Longer than `lock_timeout`, or a
half-open twin is never ended."""
PATIENCE_SECONDS = 300.0
"""How long a database, or the store, may be away before a worker gives its import back, and then ends."""
FULL_PATIENCE_SECONDS = 10.0
"""The same for a database that is there but has no room: people are to hear of it soon."""
NO_PROGRESS_SECONDS = 900.0
"""How long an import may stand still. Longer than all of the above: a database that is away is not its fault."""
