"""The faults that a service like this has to live through: of each, a rule that it lives by, and a test that fails
without it.

By the numbers of the list that they were taken from. The tests named here are in the suite; what their long forms add
is said in tests/faults/__init__.py. Proved as the holes are, by tests/test_faults_proof.py.
"""

from __future__ import annotations

import sys

from faults.undone import edit, undone
from rollcall import database, liveness, pipeline, receive, worker
from rollcall.imports import claims
from rollcall.loading import loader, part_reader
from rollcall.storage import files, integrity

NO_ANSWER = edit(database.classify, "if not $1 and isinstance($2,", "if isinstance($2, str) and isinstance($2,")
LOST = edit(database.classify, "($1 or $2)", "False")
DOWN = edit(database.classify, '$1(("08", "57P0"))', '$1("08")')
FAULTS = (
    undone(
        "F00 cut",
        "what is not answered is asked again",
        "test_faults_sweep.py::test_sweep_every_statement_fails_once[cut]",
        LOST,
        NO_ANSWER,
    ),
    undone(
        "F00 hang",
        "who does not answer is hung up on",
        "test_faults_sweep.py::test_sweep_every_statement_fails_once[hang]",
        edit(database.Answering.wait, "call_later($1, $2)", "call_later(600, $2)"),
    ),
    undone(
        "F00 kill",
        "a running import whose worker is gone is taken over",
        "test_faults_sweep.py::test_sweep_killed_at_every_statement",
        edit(claims, "where i.id = %(id)s and i.attempt = %(seen)s", "where false and i.attempt = %(seen)s"),
    ),
    undone(
        "F00 store",
        "a store that is away is waited for",
        "test_faults_sweep.py::test_sweep_every_call_of_the_store_fails_once[error]",
        edit(pipeline.run_import, "except ($1, $2) as $3:", "except $1 as $3:"),
    ),
    undone(
        "F04",
        "a batch is one transaction",
        "test_worker.py::test_worker_killed_at_random_moments",
        edit(
            loader.Loader._commit,
            "        async with $1():\n            with $2",
            "        if True:\n            with $2",
        ),
    ),
    undone(
        "F05",
        "so it is wholly there or not at all, whenever its connection is lost",
        "test_loader.py::test_loader_connections_lost_anywhere",
        edit(
            loader.Loader._commit,
            "        async with $1():\n            with $2",
            "        if True:\n            with $2",
        ),
    ),
    undone(
        "F06",
        "a batch begins with the fence",
        "test_loader.py::test_loader_fenced_loaders_write_nothing",
        edit(loader.Loader._write, "if not await $1($2, $3):", "if await $1($2, $3) is None:"),
    ),
    undone(
        "F08",
        "a drain is heard between two Parts",
        "test_worker.py::test_worker_sigterm_in_the_middle",
        edit(
            part_reader._read_parts, "        yield $1\n        if $2():\n            raise $3\n", "        yield $1\n"
        ),
    ),
    undone(
        "F10",
        "SIGTERM ends a worker",
        "test_faults_service.py::test_service_rolling_restart",
        edit(worker.Worker._tick, "        if $1():\n            return True\n", ""),
    ),
    undone(
        "F11",
        "a server that stops is no fault of the import",
        "test_faults.py::test_faults_postgres_goes_down_and_comes_up[fast]",
        LOST,
        DOWN,
    ),
    undone(
        "F12",
        "nor is one that crashes",
        "test_faults.py::test_faults_postgres_goes_down_and_comes_up[immediate]",
        LOST,
        DOWN,
        NO_ANSWER,
    ),
    undone(
        "F13",
        "nor one that takes all sessions along with one",
        "test_faults.py::test_faults_postgres_goes_down_and_comes_up[backend]",
        LOST,
        DOWN,
        NO_ANSWER,
    ),
    undone(
        "F14",
        "a database that is away is waited for",
        "test_faults.py::test_faults_postgres_is_away",
        edit(liveness, "\n$1 = 300.0", "\n$1 = 0.1"),
    ),
    undone(
        "F16",
        "so is one that has no connection left",
        "test_faults.py::test_faults_others_hold_all_connections",
        NO_ANSWER,
    ),
    undone(
        "F18",
        "so is a table that somebody has locked",
        "test_faults.py::test_faults_somebody_locks_the_contacts",
        edit(database.classify, 'if $1 == "55P03":', 'if $1 == "never":'),
    ),
    undone(
        "F19",
        "so is one whose disk is full",
        "test_faults.py::test_faults_the_disk_of_postgres_is_full",
        edit(database.classify, ' or $1("53")', ""),
    ),
    undone(
        "F20",
        "nothing is kept of what did not fit",
        "test_faults_store.py::test_store_a_full_disk",
        edit(files.FileStore.put, "            await _in_thread(_abandon, $1, $2, $3)\n", ""),
        edit(receive.drop, "            await $1({*$2, *$3})\n", "            pass\n"),
    ),
    undone(
        "F24",
        "bytes are checked before they are read",
        "test_faults_store.py::test_store_a_segment_that_is_not_what_was_stored[flipped--1]",
        edit(integrity._blocks, "if _checksum($1) != $2", "if _checksum($1) is $2"),
    ),
    undone(
        "F31",
        "a Part holds so many bytes at most",
        "test_faults_service.py::test_service_a_worker_stays_small",
        edit(sys.modules["rollcall.records.parts"], "$1 = 4 << 20", "$1 = 1 << 40"),
    ),
    undone(
        "F32",
        "an import that kills its workers is ended",
        "test_faults_worker.py::test_worker_a_file_that_workers_die_of",
        edit(claims, "$1 = 4", "$1 = 6"),
    ),
    undone(
        "F37",
        "what could not be written is not acknowledged",
        "test_faults_store.py::test_store_a_write_that_fails",
        edit(
            files._in_thread,
            "            raise $1 from $2\n        raise $3 from $2\n",
            "            raise $1 from $2\n        return None  # type: ignore[return-value]\n",
        ),
    ),
    undone(
        "F39",
        "no batch commits after a cancel has returned",
        "test_pipeline.py::test_run_import_cancel_counts_the_batch_that_it_waited_for",
        edit(claims.fence, "and attempt = %s and state = 'running' for share", "and attempt = %s for share"),
    ),
    undone(
        "others",
        "a key that somebody else brings meanwhile is no fault",
        "test_faults_others.py::test_faults_in_a_vacant_source",
        edit(loader.Loader._load, "if $1 > $2:", "if True:"),
    ),
)
