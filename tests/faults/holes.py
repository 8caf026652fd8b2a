"""The holes that a prototype of the protocol fell into: the rule that closes each, and the test that fails without it.

By the numbers that they were given when they were found; a letter where one has several sides. What is undone here is
undone in a copy of the code; tests/test_faults_proof.py sees that this list fits the code and, in its long form, that
the tests fail:

    ROLLCALL_LONG=1 ./dev test tests/test_faults_proof.py -k 7c
"""

from __future__ import annotations

from faults.undone import edit, undone
from rollcall import contacts, control, control_connection, database, ledger, pipeline, worker, workers
from rollcall.imports import claims, closing
from rollcall.loading import loader, retries

IN_TRANSACTION = edit(
    pipeline.plan_of,
    "async def $1(",
    "async def in_transaction(tx, said):\n"
    "    async with tx.transaction():\n"
    "        return await said\n"
    "\n"
    "\n"
    "async def $1(",
)
HOLES = (
    # Acknowledged batches vanish with a crash of Postgres.
    undone(
        "1a",
        "after a lost connection a loader notices that the ledger has less than it was told",
        "test_loader.py::test_loader_postgres_takes_acknowledged_batches_back",
        edit(loader.Loader._connect, "elif $1 != $2:", "elif $1 > $2:"),
    ),
    undone(
        "1b",
        "a close that does not add up loads again",
        "test_loader.py::test_loader_a_batch_that_is_taken_back_just_before_the_end[once]",
        edit(pipeline.close, "        raise Rewind\n", "        raise Fenced\n"),
    ),
    undone(
        "1c",
        "but not for ever",
        "test_loader.py::test_loader_a_batch_that_is_taken_back_just_before_the_end[again and again]",
        edit(pipeline._work, "for $1 in range($2):", "while True:"),
    ),
    # An idle transaction is ended by an InternalError.
    undone(
        "2a",
        "25P03 means that the connection is lost",
        "test_loader.py::test_loader_a_batch_that_was_idle_for_too_long",
        edit(database.classify, "($1 or $2)", "False"),
        edit(database.classify, ' or $1 == "25P03"', ""),
    ),
    undone(
        "2b",
        "a dead connection is lost, whatever its last error was",
        "test_database.py::test_database_on_a_dead_connection_every_error_means_that_it_is_lost",
        edit(database.classify, "($1 or $2)", "False"),
    ),
    undone(
        "2c",
        "a connection that cannot be made is tried again",
        "test_loader.py::test_loader_connections_lost_anywhere",
        edit(
            loader.Loader._load,
            "                    await $1($2)\n",
            "                    try:\n"
            "                        await $1($2)\n"
            "                    except psycopg.Error as error:\n"
            "                        raise DatabaseDown from error\n",
        ),
    ),
    # Beats and fences.
    undone(
        "3",
        "beats are not in imports, where they wait for a batch that holds the fence",
        "test_takeover.py::test_take_over_while_a_batch_waits_for_its_commit",
        edit(
            workers.beat,
            '    await $1(\n        """insert into rollcall.workers (seq',
            '    await $1("update rollcall.imports set worker = worker where worker = %s", '
            "(worker,))\n"
            "    await $1(\n"
            '        """insert into rollcall.workers (seq',
        ),
    ),
    undone(
        "4a",
        "to take over is to wait for the row, not to skip it",
        "test_faults_worker.py::test_worker_frozen_in_a_batch[in mid-COPY]",
        edit(
            claims,
            "where i.id = %(id)s and i.attempt = %(seen)s",
            "where i.id = (select id from rollcall.imports where id = %(id)s for update skip "
            "locked) and i.attempt = %(seen)s",
        ),
    ),
    undone(
        "4b",
        "a frozen loader that does not let the row go is ended",
        "test_faults_worker.py::test_worker_frozen_in_a_batch[in mid-COPY]",
        edit(worker.Worker._take, "await $1($2, $3, $4=$5)", "pass"),
    ),
    # Imports of one Source run in order.
    undone(
        "5a",
        "only the first open import of a Source may be claimed",
        "test_order.py::test_claim_a_source_waits_even_while_its_first_import_is_being_claimed",
        edit(claims.claim, "(e.state = 'running' or e.state = 'queued' and e.seq < i.seq)", "e.state = 'running'"),
    ),
    undone(
        "5b",
        "a unique violation means: nothing now",
        "test_order.py::test_claim_an_older_import_is_retried_and_claimed_at_this_moment",
        edit(claims.claim, "UniqueViolation:\n        return None", "UniqueViolation:\n        raise"),
    ),
    # One lock per worker.
    undone(
        "6a",
        "the lock is taken before the first claim",
        "test_takeover.py::test_take_over_the_lock_is_there_before_the_first_claim",
        edit(control_connection.ControlConnection._register, "while not await $1($2, $3):", "while False:"),
        edit(worker, "import imports, $1, $2, $3, $4\n", "import imports, $1, $2, $3, $4, workers\n"),
        edit(
            worker.Worker._tick,
            "        await self._claim($1)\n        if",
            "        await self._claim($1)\n        await workers.lock($1, self._control.number)\n        if",
        ),
    ),
    undone(
        "6b",
        "a frozen holder keeps its lock, and is taken from all the same",
        "test_takeover.py::test_take_over_nobody_is_judged_by_one_look[stale]",
        edit(worker.Worker._take_over, "elif $1:", "elif $1 and not stalled.locked:"),
    ),
    undone(
        "6c",
        "who looks for a lock does not take it",
        "test_takeover.py::test_take_over_looking_takes_no_lock",
        edit(
            claims.list_stalled,
            "exists (select from pg_locks l where",
            "not pg_try_advisory_lock(%(class)s::int, i.worker) and exists (select from pg_locks l where",
        ),
    ),
    # The control connection dies, and the loaders live.
    undone(
        "7a",
        "the loaders go on without it",
        "test_takeover.py::test_take_over_a_worker_without_its_control_connection[cut]",
        edit(
            worker.Worker.run,
            '                    if $1 != "locked":\n',
            '                    if $1 != "locked":\n'
            "                        for task in self._tasks():\n"
            "                            task.cancel()\n",
        ),
    ),
    undone(
        "7b",
        "it is dialled again at once",
        "test_takeover.py::test_take_over_a_worker_without_its_control_connection[cut]",
        edit(control_connection, "$1 = 0.25", "$1 = 5.0"),
    ),
    undone(
        "7c",
        "the worker's own older session, which still has the lock, is ended",
        "test_takeover.py::test_take_over_a_worker_without_its_control_connection[swallow]",
        edit(control_connection.ControlConnection._register, "await workers.end_older_session($1, $2)", "pass"),
    ),
    undone(
        "7d",
        "and the worker beats before it looks and claims",
        "test_takeover.py::test_take_over_a_worker_without_its_control_connection[cut]",
        edit(
            control_connection.ControlConnection._register,
            "            await $1($2, $3, $4)\n            $5 = $6()\n            await $7",
            "            await $7",
        ),
    ),
    undone(
        "7e",
        "two looks are on one unbroken connection",
        "test_takeover.py::test_take_over_what_a_lost_connection_saw_counts_for_nothing",
        edit(worker.Worker._connect, "self._seen.clear()", "pass"),
    ),
    undone(
        "7f",
        "two looks see the same beat",
        "test_takeover.py::test_take_over_who_beats_between_two_looks_is_not_gone",
        edit(worker.Worker._take_over, "$1 = ($2, $3, $4, $5)", "$1 = ($2, $3, $4)"),
    ),
    undone(
        "7g",
        "a lock that is free is looked at twice",
        "test_takeover.py::test_take_over_nobody_is_judged_by_one_look[gone]",
        edit(worker.Worker._take_over, '$1, $2 = "gone", $3', '$1, $2 = "gone", 0.0'),
    ),
    undone(
        "7h",
        "so is a beat that is old",
        "test_takeover.py::test_take_over_nobody_is_judged_by_one_look[stale]",
        edit(worker.Worker._take_over, '$1, $2 = "stale", $3', '$1, $2 = "stale", 0.0'),
    ),
    undone(
        "7i",
        "to take over is to look at the beat once more",
        "test_takeover.py::test_take_over_who_beats_after_the_last_look_is_not_gone",
        edit(
            claims,
            "(select beat from rollcall.workers w where w.seq = i.worker) is not distinct from %(beat)s",
            "(true or %(beat)s::timestamptz is null)",
        ),
    ),
    # What counts as a crash.
    undone(
        "8a",
        "no batch writes to imports, where the loaders wait for each other",
        "test_takeover.py::test_take_over_while_a_batch_waits_for_its_commit",
        edit(
            loader.Loader._write,
            "        if not await ledger.enter(",
            '        await tx.execute("update rollcall.imports set crashes = 0 where id = '
            '%s", (job.id,))\n'
            "        if not await ledger.enter(",
        ),
    ),
    undone(
        "8b",
        "an attempt that committed a batch makes the count begin again",
        "test_worker.py::test_worker_a_batch_makes_the_count_begin_again",
        edit(claims, "p.attempt = j.attempt) then 1", "p.attempt = j.attempt) then j.crashes + 1"),
    ),
    undone(
        "8c",
        "who went down with Postgres is not counted",
        "test_faults.py::test_faults_who_went_down_with_postgres_is_not_to_blame[True]",
        edit(worker.Worker._take, '$1 = $2 != "released" and not $3', '$1 = $2 != "released"'),
    ),
    undone(
        "8d",
        "who let go is not counted",
        "test_worker.py::test_worker_sigterm_in_the_middle",
        edit(worker.Worker._take, '$1 = $2 != "released" and not $3', "$1 = not $3"),
    ),
    undone(
        "8e",
        "four lost attempts end an import",
        "test_worker.py::test_worker_four_lost_attempts_without_a_batch_end_an_import",
        edit(claims.take_over, '"limit": $1', '"limit": 1000'),
    ),
    # Innocent siblings.
    undone(
        "9a",
        "an import that brought workers down is not begun beside others",
        "test_takeover.py::test_take_over_what_has_brought_workers_down_runs_alone",
        edit(worker.Worker._room, "($1 >= 2 or any(", "(any("),
    ),
    undone(
        "9b",
        "and none is begun beside it",
        "test_takeover.py::test_take_over_what_has_brought_workers_down_runs_alone",
        edit(worker.Worker._room, "($1 >= 2 or any($2 >= 2 for $3 in $4()))", "$1 >= 2"),
    ),
    undone(
        "9c",
        "nor while it waits for the slots to be empty",
        "test_takeover.py::test_take_over_what_has_brought_workers_down_runs_alone",
        edit(worker.Worker._claim, "while not $1 and $2($3=0):", "while $2($3=0):"),
    ),
    # A half-open twin of the same attempt.
    undone(
        "10a",
        "a loader ends an older session of its own",
        "test_loader.py::test_loader_half_open_twin_is_ended[batch]",
        edit(loader.Loader._recover, "        await $1($2, $3, $4)", "        pass"),
    ),
    undone(
        "10b",
        "who closes ends what loaders left over",
        "test_loader.py::test_loader_half_open_twin_is_ended[fence]",
        edit(retries.with_retries, "await $1($2, $3)", "await $1($2, $3, CONTROL_SESSION)"),
    ),
    # The ledger has a row already.
    undone(
        "11a",
        "it is this batch only if it ends where this one ends",
        "test_loader.py::test_loader_a_twin_that_cut_its_parts_otherwise",
        edit(loader.Loader._commit, "if not $1 and await", "if False and await"),
    ),
    undone(
        "11b",
        "whether there is one is settled by the INSERT",
        "test_loader.py::test_loader_commit_that_arrives_after_the_look",
        edit(ledger.enter, " on conflict do nothing", ""),
    ),
    # Cancel.
    undone(
        "12a",
        "it ends sessions of the current attempt too",
        "test_pipeline.py::test_run_import_cancel_of_a_frozen_batch",
        edit(control.cancel, "$1=$2[1]", "$1=$2[1] - 1"),
    ),
    undone(
        "12b",
        "it locks first and sums in its next statement",
        "test_pipeline.py::test_run_import_cancel_counts_the_batch_that_it_waited_for",
        edit(closing.cancel, ' select 1 from rollcall.imports where id = %(id)s for update;"', '"'),
    ),
    undone(
        "12c",
        "it does not wait for one loader after the other",
        "test_pipeline.py::test_run_import_cancel_while_there_is_always_a_batch_under_way",
        edit(closing.cancel, "set local statement_timeout = '1s'; ", ""),
    ),
    # Frozen between two statements.
    undone(
        "13a",
        "a claim is one statement",
        "test_takeover.py::test_take_over_one_statement_is_all[claim]",
        edit(
            worker.Worker._claim,
            "            $1 = await $2(",
            "            async with control.transaction():\n                $1 = await $2(",
        ),
    ),
    undone(
        "13b",
        "to take over is one statement",
        "test_takeover.py::test_take_over_one_statement_is_all[take]",
        edit(
            worker.Worker._take,
            "            $1 = await $2(",
            "            async with control.transaction():\n                $1 = await $2(",
        ),
    ),
    undone(
        "13c",
        "to release is one statement",
        "test_takeover.py::test_take_over_one_statement_is_all[release]",
        IN_TRANSACTION,
        edit(pipeline.release, "$1($2, $3, *$4, $5=$5)", "in_transaction($2, $1($2, $3, *$4, $5=$5))"),
    ),
    undone(
        "13d",
        "the close is one statement",
        "test_takeover.py::test_take_over_one_statement_is_all[close]",
        IN_TRANSACTION,
        edit(pipeline.close, "$1($2, $3, $4)", "in_transaction($2, $1($2, $3, $4))"),
    ),
    undone(
        "13e",
        "a cancel is one message",
        "test_takeover.py::test_take_over_one_message_is_all[cancel]",
        edit(
            closing.cancel,
            '$1($2) as $3:\n        await $4(\n            "set local',
            'tx.transaction(), $1($2) as $3:\n        await $4(\n            "set local',
        ),
    ),
    undone(
        "13f",
        "a retry is one message",
        "test_takeover.py::test_take_over_one_message_is_all[retry]",
        edit(
            closing.retry,
            '$1($2) as $3:\n        await $4(\n            """select',
            'tx.transaction(), $1($2) as $3:\n        await $4(\n            """select',
        ),
    ),
    # The answer to a claim is lost; attempts of one import side by side.
    undone(
        "14a",
        "what is mine and in no slot is free",
        "test_takeover.py::test_take_over_the_answer_to_a_claim_is_lost",
        edit(claims.list_stalled, "i.worker is null or i.worker = %(me)s as released", "i.worker is null as released"),
    ),
    undone(
        "14b",
        "slots are those of an attempt, not of an import",
        "test_takeover.py::test_take_over_an_import_that_comes_back_while_its_old_attempt_still_stands",
        edit(worker.Worker._begin, "$1[str($2), $3] =", "$1[str($2), 0] ="),
        edit(worker.Worker._run_import, "del $1[str($2), $3]", "self._slots.pop((str($2), 0), None)"),
        edit(
            worker.Worker._take_over,
            'f"{job}:{attempt}" for $1, $2 in $3]',
            'f"{slot.job.id}:{slot.job.attempt}" for slot in self._slots.values()]',
        ),
    ),
    undone(
        "15",
        "what is given back is still running",
        "test_order.py::test_claim_a_retried_import_waits_for_a_younger_one_that_runs",
        edit(claims.release, "set worker = null, error_code", "set state = 'queued', worker = null, error_code"),
    ),
    # Names of sessions.
    undone(
        "16a",
        "names that only look like ours are no error",
        "test_database.py::test_database_whose_sessions_are_ended",
        edit(
            database.end_sessions,
            "substring(application_name from %s)::int <= %s",
            "application_name like 'rollcall:%%:%%:%%' and %s <> '' and "
            "split_part(application_name, ':', 3)::int <= %s",
        ),
    ),
    undone(
        "16b",
        "attempt 10 does not begin with attempt 1",
        "test_database.py::test_database_whose_sessions_are_ended",
        edit(database.end_sessions, "([0-9]{{1,9}})", "([0-9])[0-9]*"),
    ),
    undone(
        "17",
        "values stand in the order in which imports ran",
        "test_order.py::test_claim_a_retried_import_waits_for_a_younger_one_that_runs",
        edit(contacts, "o.name <> i.name or (", "o.import_id <= i.import_id and o.name <> i.name or ("),
    ),
)
