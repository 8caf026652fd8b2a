"""The faults that a service like this has to live through: of each, a rule that it lives by, and a test that fails
without it.

By the numbers of the list that they were taken from. The tests named here are in the suite; what their long forms add
is said in tests/faults/__init__.py. Proved as the holes are, by tests/test_faults_proof.py.
"""

from __future__ import annotations

from faults.undone import undone

NO_ANSWER = (
    "database.py",
    "if not state and isinstance(error,",
    "if isinstance(error, str) and isinstance(error,",
)
LOST = ("database.py", "(connection.closed or connection.broken)", "False")
DOWN = ("database.py", 'state.startswith(("08", "57P0"))', 'state.startswith("08")')
FAULTS = (
    undone(
        "F00 cut",
        "what is not answered is asked again",
        "test_faults_sweep.py::test_every_statement_fails_once[cut]",
        LOST,
        NO_ANSWER,
    ),
    undone(
        "F00 hang",
        "who does not answer is hung up on",
        "test_faults_sweep.py::test_every_statement_fails_once[hang]",
        ("database.py", "call_later(ANSWER_SECONDS, self._break)", "call_later(600, self._break)"),
    ),
    undone(
        "F00 kill",
        "a running import whose worker is gone is taken over",
        "test_faults_sweep.py::test_killed_at_every_statement",
        ("imports/claims.py", "where i.id = %(id)s and i.attempt = %(seen)s", "where false and i.attempt = %(seen)s"),
    ),
    undone(
        "F00 store",
        "a store that is away is waited for",
        "test_faults_sweep.py::test_every_call_of_the_store_fails_once[error]",
        ("pipeline.py", "except (Draining, Unavailable) as stop:", "except Draining as stop:"),
    ),
    undone(
        "F04",
        "a batch is one transaction",
        "test_worker.py::test_killed_at_random_moments",
        (
            "loading/loader.py",
            "        async with tx.transaction():\n            with timed",
            "        if True:\n            with timed",
        ),
    ),
    undone(
        "F05",
        "so it is wholly there or not at all, whenever its connection is lost",
        "test_loader.py::test_connections_lost_anywhere",
        (
            "loading/loader.py",
            "        async with tx.transaction():\n            with timed",
            "        if True:\n            with timed",
        ),
    ),
    undone(
        "F06",
        "a batch begins with the fence",
        "test_loader.py::test_fenced_loaders_write_nothing",
        ("loading/loader.py", "if not await imports.fence(tx, job):", "if await imports.fence(tx, job) is None:"),
    ),
    undone(
        "F08",
        "a drain is heard between two Parts",
        "test_worker.py::test_sigterm_in_the_middle",
        (
            "loading/part_reader.py",
            "        yield part\n        if draining.is_set():\n            raise Draining\n",
            "        yield part\n",
        ),
    ),
    undone(
        "F10",
        "SIGTERM ends a worker",
        "test_faults_service.py::test_rolling_restart",
        ("worker.py", "        if self._draining.is_set():\n            return True\n", ""),
    ),
    undone(
        "F11",
        "a server that stops is no fault of the import",
        "test_faults.py::test_postgres_goes_down_and_comes_up[fast]",
        LOST,
        DOWN,
    ),
    undone(
        "F12",
        "nor is one that crashes",
        "test_faults.py::test_postgres_goes_down_and_comes_up[immediate]",
        LOST,
        DOWN,
        NO_ANSWER,
    ),
    undone(
        "F13",
        "nor one that takes all sessions along with one",
        "test_faults.py::test_postgres_goes_down_and_comes_up[backend]",
        LOST,
        DOWN,
        NO_ANSWER,
    ),
    undone(
        "F14",
        "a database that is away is waited for",
        "test_faults.py::test_postgres_is_away",
        ("loading/loader.py", "\nPATIENCE_SECONDS = 300.0", "\nPATIENCE_SECONDS = 0.1"),
    ),
    undone(
        "F16",
        "so is one that has no connection left",
        "test_faults.py::test_others_hold_all_connections",
        NO_ANSWER,
    ),
    undone(
        "F18",
        "so is a table that somebody has locked",
        "test_faults.py::test_somebody_locks_the_contacts",
        ("database.py", 'if state == "55P03":', 'if state == "never":'),
    ),
    undone(
        "F19",
        "so is one whose disk is full",
        "test_faults.py::test_the_disk_of_postgres_is_full",
        ("database.py", ' or state.startswith("53")', ""),
    ),
    undone(
        "F20",
        "nothing is kept of what did not fit",
        "test_faults_store.py::test_a_full_disk",
        ("storage/files.py", "            await _in_thread(_abandon, file, partial, path)\n", ""),
        ("receive.py", "            await store.delete_many({*keys, *upload.keys})\n", "            pass\n"),
    ),
    undone(
        "F24",
        "bytes are checked before they are read",
        "test_faults_store.py::test_a_segment_that_is_not_what_was_stored[flipped--1]",
        ("storage/integrity.py", "if _checksum(block) != segment", "if _checksum(block) is segment"),
    ),
    undone(
        "F31",
        "a Part holds so many bytes at most",
        "test_faults_service.py::test_a_worker_stays_small",
        ("records/parts.py", "PART_BYTES = 4 << 20", "PART_BYTES = 1 << 40"),
    ),
    undone(
        "F32",
        "an import that kills its workers is ended",
        "test_faults_worker.py::test_a_file_that_workers_die_of",
        ("imports/claims.py", "CRASHES_MAX = 4", "CRASHES_MAX = 6"),
    ),
    undone(
        "F37",
        "what could not be written is not acknowledged",
        "test_faults_store.py::test_a_write_that_fails",
        (
            "storage/files.py",
            "            raise NoSpace from error\n        raise StoreDown from error\n",
            "            raise NoSpace from error\n        return None  # type: ignore[return-value]\n",
        ),
    ),
    undone(
        "F39",
        "no batch commits after a cancel has returned",
        "test_pipeline.py::test_cancel_counts_the_batch_that_it_waited_for",
        ("imports/claims.py", "and attempt = %s and state = 'running' for share", "and attempt = %s for share"),
    ),
    undone(
        "others",
        "a key that somebody else brings meanwhile is no fault",
        "test_faults_others.py::test_in_a_vacant_source",
        (
            "loading/loader.py",
            "if conflicts > CONFLICTS_MAX:",
            "if True:",
        ),
    ),
)
