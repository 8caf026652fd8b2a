"""The holes that a prototype of the protocol fell into: the rule that closes each, and the test that fails without it.

By the numbers that they were given when they were found; a letter where one has several sides. What is undone here is
undone in a copy of the code; tests/test_faults_proof.py sees that this list fits the code and, in its long form, that
the tests fail:

    ROLLCALL_LONG=1 ./dev test tests/test_faults_proof.py -k 7c
"""

from __future__ import annotations

from faults.undone import undone

IN_TRANSACTION = (
    "pipeline.py",
    "async def plan_of(",
    "async def in_transaction(tx, said):\n    async with tx.transaction():\n        return await said\n\n\n"
    "async def plan_of(",
)
HOLES = (
    # Acknowledged batches vanish with a crash of Postgres.
    undone(
        "1a",
        "after a lost connection a loader notices that the ledger has less than it was told",
        "test_loader.py::test_postgres_takes_acknowledged_batches_back",
        ("loading/loader.py", "elif stands != self.position:", "elif stands > self.position:"),
    ),
    undone(
        "1b",
        "a close that does not add up loads again",
        "test_loader.py::test_a_batch_that_is_taken_back_just_before_the_end[once]",
        ("pipeline.py", "        raise Rewind\n", "        raise Fenced\n"),
    ),
    undone(
        "1c",
        "but not for ever",
        "test_loader.py::test_a_batch_that_is_taken_back_just_before_the_end[again and again]",
        ("pipeline.py", "for _ in range(REWINDS_MAX):", "while True:"),
    ),
    # An idle transaction is ended by an InternalError.
    undone(
        "2a",
        "25P03 means that the connection is lost",
        "test_loader.py::test_a_batch_that_was_idle_for_too_long",
        ("database.py", "(connection.closed or connection.broken)", "False"),
        ("database.py", ' or state == "25P03"', ""),
    ),
    undone(
        "2b",
        "a dead connection is lost, whatever its last error was",
        "test_database.py::test_on_a_dead_connection_every_error_means_that_it_is_lost",
        ("database.py", "(connection.closed or connection.broken)", "False"),
    ),
    undone(
        "2c",
        "a connection that cannot be made is tried again",
        "test_loader.py::test_connections_lost_anywhere",
        (
            "loading/loader.py",
            "                    await self._connect(batch.last)\n",
            "                    try:\n                        await self._connect(batch.last)\n"
            "                    except psycopg.Error as error:\n"
            "                        raise DatabaseDown from error\n",
        ),
    ),
    # Beats and fences.
    undone(
        "3",
        "beats are not in imports, where they wait for a batch that holds the fence",
        "test_takeover.py::test_while_a_batch_waits_for_its_commit",
        (
            "workers.py",
            '    await tx.execute(\n        """insert into rollcall.workers (seq',
            '    await tx.execute("update rollcall.imports set worker = worker where worker = %s", (worker,))\n'
            '    await tx.execute(\n        """insert into rollcall.workers (seq',
        ),
    ),
    undone(
        "4a",
        "to take over is to wait for the row, not to skip it",
        "test_faults_worker.py::test_frozen_in_a_batch[in mid-COPY]",
        (
            "imports/claims.py",
            "where i.id = %(id)s and i.attempt = %(seen)s",
            "where i.id = (select id from rollcall.imports where id = %(id)s for update skip locked)"
            " and i.attempt = %(seen)s",
        ),
    ),
    undone(
        "4b",
        "a frozen loader that does not let the row go is ended",
        "test_faults_worker.py::test_frozen_in_a_batch[in mid-COPY]",
        ("worker.py", "await end_sessions(control, stalled.id, attempt=stalled.attempt)", "pass"),
    ),
    # Imports of one Source run in order.
    undone(
        "5a",
        "only the first open import of a Source may be claimed",
        "test_order.py::test_a_source_waits_even_while_its_first_import_is_being_claimed",
        (
            "imports/claims.py",
            "(e.state = 'running' or e.state = 'queued' and e.seq < i.seq)",
            "e.state = 'running'",
        ),
    ),
    undone(
        "5b",
        "a unique violation means: nothing now",
        "test_order.py::test_an_older_import_is_retried_and_claimed_at_this_moment",
        ("imports/claims.py", "UniqueViolation:\n        return None", "UniqueViolation:\n        raise"),
    ),
    # One lock per worker.
    undone(
        "6a",
        "the lock is taken before the first claim",
        "test_takeover.py::test_the_lock_is_there_before_the_first_claim",
        ("worker.py", "while not await workers.lock(control, self._number):", "while False:"),
        (
            "worker.py",
            "        await self._claim(control)\n        if",
            "        await self._claim(control)\n        await workers.lock(control, self._number)\n        if",
        ),
    ),
    undone(
        "6b",
        "a frozen holder keeps its lock, and is taken from all the same",
        "test_takeover.py::test_nobody_is_judged_by_one_look[stale]",
        ("worker.py", "elif stalled.stale:", "elif stalled.stale and not stalled.locked:"),
    ),
    undone(
        "6c",
        "who looks for a lock does not take it",
        "test_takeover.py::test_looking_takes_no_lock",
        (
            "imports/claims.py",
            "exists (select from pg_locks l where",
            "not pg_try_advisory_lock(%(class)s::int, i.worker) and exists (select from pg_locks l where",
        ),
    ),
    # The control connection dies, and the loaders live.
    undone(
        "7a",
        "the loaders go on without it",
        "test_takeover.py::test_a_worker_without_its_control_connection[cut]",
        (
            "worker.py",
            "        control, self._control = self._control, None\n",
            "        control, self._control = self._control, None\n"
            "        for task in self._tasks():\n            task.cancel()\n",
        ),
    ),
    undone(
        "7b",
        "it is dialled again at once",
        "test_takeover.py::test_a_worker_without_its_control_connection[cut]",
        ("worker.py", "REDIAL_SECONDS = 0.25", "REDIAL_SECONDS = 5.0"),
    ),
    undone(
        "7c",
        "the worker's own older session, which still has the lock, is ended",
        "test_takeover.py::test_a_worker_without_its_control_connection[swallow]",
        ("worker.py", "await workers.end_older_session(control, self._number)", "pass"),
    ),
    undone(
        "7d",
        "and the worker beats before it looks and claims",
        "test_takeover.py::test_a_worker_without_its_control_connection[cut]",
        (
            "worker.py",
            "            await workers.beat(control, self._number, self._name)\n"
            "            self._last_beat = time.monotonic()\n            await control.execute",
            "            await control.execute",
        ),
    ),
    undone(
        "7e",
        "two looks are on one unbroken connection",
        "test_takeover.py::test_what_a_lost_connection_saw_counts_for_nothing",
        ("worker.py", "self._seen.clear()", "pass"),
    ),
    undone(
        "7f",
        "two looks see the same beat",
        "test_takeover.py::test_who_beats_between_two_looks_is_not_gone",
        (
            "worker.py",
            "key = (stalled.id, stalled.attempt, why, stalled.beat)",
            "key = (stalled.id, stalled.attempt, why)",
        ),
    ),
    undone(
        "7g",
        "a lock that is free is looked at twice",
        "test_takeover.py::test_nobody_is_judged_by_one_look[gone]",
        ("worker.py", 'why, wait = "gone", liveness.GRACE_SECONDS', 'why, wait = "gone", 0.0'),
    ),
    undone(
        "7h",
        "so is a beat that is old",
        "test_takeover.py::test_nobody_is_judged_by_one_look[stale]",
        ("worker.py", 'why, wait = "stale", liveness.BEAT_SECONDS', 'why, wait = "stale", 0.0'),
    ),
    undone(
        "7i",
        "to take over is to look at the beat once more",
        "test_takeover.py::test_who_beats_after_the_last_look_is_not_gone",
        (
            "imports/claims.py",
            "(select beat from rollcall.workers w where w.seq = i.worker) is not distinct from %(beat)s",
            "(true or %(beat)s::timestamptz is null)",
        ),
    ),
    # What counts as a crash.
    undone(
        "8a",
        "no batch writes to imports, where the loaders wait for each other",
        "test_takeover.py::test_while_a_batch_waits_for_its_commit",
        (
            "loading/loader.py",
            "        if not await ledger.enter(",
            '        await tx.execute("update rollcall.imports set crashes = 0 where id = %s", (job.id,))\n'
            "        if not await ledger.enter(",
        ),
    ),
    undone(
        "8b",
        "an attempt that committed a batch makes the count begin again",
        "test_worker.py::test_a_batch_makes_the_count_begin_again",
        ("imports/claims.py", "p.attempt = j.attempt) then 1", "p.attempt = j.attempt) then j.crashes + 1"),
    ),
    undone(
        "8c",
        "who went down with Postgres is not counted",
        "test_faults.py::test_who_went_down_with_postgres_is_not_to_blame[True]",
        ("worker.py", 'counted = why != "released" and not stalled.restarted', 'counted = why != "released"'),
    ),
    undone(
        "8d",
        "who let go is not counted",
        "test_worker.py::test_sigterm_in_the_middle",
        ("worker.py", 'counted = why != "released" and not stalled.restarted', "counted = not stalled.restarted"),
    ),
    undone(
        "8e",
        "four lost attempts end an import",
        "test_worker.py::test_four_lost_attempts_without_a_batch_end_an_import",
        ("imports/claims.py", '"limit": CRASHES_MAX', '"limit": 1000'),
    ),
    # Innocent siblings.
    undone(
        "9a",
        "an import that brought workers down is not begun beside others",
        "test_takeover.py::test_what_has_brought_workers_down_runs_alone",
        ("worker.py", "(crashes >= 2 or any(", "(any("),
    ),
    undone(
        "9b",
        "and none is begun beside it",
        "test_takeover.py::test_what_has_brought_workers_down_runs_alone",
        ("worker.py", "(crashes >= 2 or any(slot.job.crashes >= 2 for slot in self._slots.values()))", "crashes >= 2"),
    ),
    undone(
        "9c",
        "nor while it waits for the slots to be empty",
        "test_takeover.py::test_what_has_brought_workers_down_runs_alone",
        ("worker.py", "while not self._isolating and self._room(crashes=0):", "while self._room(crashes=0):"),
    ),
    # A half-open twin of the same attempt.
    undone(
        "10a",
        "a loader ends an older session of its own",
        "test_loader.py::test_half_open_twin_is_ended[batch]",
        ("loading/loader.py", "        await end_others(self._connection, self._job, self._number)", "        pass"),
    ),
    undone(
        "10b",
        "who closes ends what loaders left over",
        "test_loader.py::test_half_open_twin_is_ended[fence]",
        (
            "loading/retries.py",
            "await end_others(connection, job)",
            "await end_others(connection, job, CONTROL_SESSION)",
        ),
    ),
    # The ledger has a row already.
    undone(
        "11a",
        "it is this batch only if it ends where this one ends",
        "test_loader.py::test_a_twin_that_cut_its_parts_otherwise",
        ("loading/loader.py", "if not written and await", "if False and await"),
    ),
    undone(
        "11b",
        "whether there is one is settled by the INSERT",
        "test_loader.py::test_commit_that_arrives_after_the_look",
        ("ledger.py", " on conflict do nothing", ""),
    ),
    # Cancel.
    undone(
        "12a",
        "it ends sessions of the current attempt too",
        "test_pipeline.py::test_cancel_of_a_frozen_batch",
        ("control.py", "attempt=stands[1]", "attempt=stands[1] - 1"),
    ),
    undone(
        "12b",
        "it locks first and sums in its next statement",
        "test_pipeline.py::test_cancel_counts_the_batch_that_it_waited_for",
        ("imports/closing.py", ' select 1 from rollcall.imports where id = %(id)s for update;"', '"'),
    ),
    undone(
        "12c",
        "it does not wait for one loader after the other",
        "test_pipeline.py::test_cancel_while_there_is_always_a_batch_under_way",
        ("imports/closing.py", "set local statement_timeout = '1s'; ", ""),
    ),
    # Frozen between two statements.
    undone(
        "13a",
        "a claim is one statement",
        "test_takeover.py::test_one_statement_is_all[claim]",
        (
            "worker.py",
            "            job = await imports.claim(",
            "            async with control.transaction():\n                job = await imports.claim(",
        ),
    ),
    undone(
        "13b",
        "to take over is one statement",
        "test_takeover.py::test_one_statement_is_all[take]",
        (
            "worker.py",
            "            job = await imports.take_over(",
            "            async with control.transaction():\n                job = await imports.take_over(",
        ),
    ),
    undone(
        "13c",
        "to release is one statement",
        "test_takeover.py::test_one_statement_is_all[release]",
        IN_TRANSACTION,
        (
            "pipeline.py",
            "imports.release(tx, job, *why, counted=counted)",
            "in_transaction(tx, imports.release(tx, job, *why, counted=counted))",
        ),
    ),
    undone(
        "13d",
        "the close is one statement",
        "test_takeover.py::test_one_statement_is_all[close]",
        IN_TRANSACTION,
        ("pipeline.py", "imports.close(tx, job, total)", "in_transaction(tx, imports.close(tx, job, total))"),
    ),
    undone(
        "13e",
        "a cancel is one message",
        "test_takeover.py::test_one_message_is_all[cancel]",
        (
            "imports/closing.py",
            'psycopg.AsyncClientCursor(tx) as cursor:\n        await cursor.execute(\n            "set local',
            "tx.transaction(), psycopg.AsyncClientCursor(tx) as cursor:\n        await cursor.execute(\n"
            '            "set local',
        ),
    ),
    undone(
        "13f",
        "a retry is one message",
        "test_takeover.py::test_one_message_is_all[retry]",
        (
            "imports/closing.py",
            'psycopg.AsyncClientCursor(tx) as cursor:\n        await cursor.execute(\n            """select',
            "tx.transaction(), psycopg.AsyncClientCursor(tx) as cursor:\n        await cursor.execute(\n"
            '            """select',
        ),
    ),
    # The answer to a claim is lost; attempts of one import side by side.
    undone(
        "14a",
        "what is mine and in no slot is free",
        "test_takeover.py::test_the_answer_to_a_claim_is_lost",
        ("imports/claims.py", "i.worker is null or i.worker = %(me)s as released", "i.worker is null as released"),
    ),
    undone(
        "14b",
        "slots are those of an attempt, not of an import",
        "test_takeover.py::test_an_import_that_comes_back_while_its_old_attempt_still_stands",
        ("worker.py", "self._slots[str(job.id), job.attempt] =", "self._slots[str(job.id), 0] ="),
        ("worker.py", "del self._slots[str(job.id), job.attempt]", "self._slots.pop((str(job.id), 0), None)"),
        (
            "worker.py",
            'f"{job}:{attempt}" for job, attempt in self._slots]',
            'f"{slot.job.id}:{slot.job.attempt}" for slot in self._slots.values()]',
        ),
    ),
    undone(
        "15",
        "what is given back is still running",
        "test_order.py::test_a_retried_import_waits_for_a_younger_one_that_runs",
        ("imports/claims.py", "set worker = null, error_code", "set state = 'queued', worker = null, error_code"),
    ),
    # Names of sessions.
    undone(
        "16a",
        "names that only look like ours are no error",
        "test_database.py::test_whose_sessions_are_ended",
        (
            "database.py",
            "substring(application_name from %s)::int <= %s",
            "application_name like 'rollcall:%%:%%:%%' and %s <> ''"
            " and split_part(application_name, ':', 3)::int <= %s",
        ),
    ),
    undone(
        "16b",
        "attempt 10 does not begin with attempt 1",
        "test_database.py::test_whose_sessions_are_ended",
        ("database.py", "([0-9]{{1,9}})", "([0-9])[0-9]*"),
    ),
    undone(
        "17",
        "values stand in the order in which imports ran",
        "test_order.py::test_a_retried_import_waits_for_a_younger_one_that_runs",
        ("contacts.py", "o.name <> i.name or (", "o.import_id <= i.import_id and o.name <> i.name or ("),
    ),
)
