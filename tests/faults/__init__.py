"""What breaks Rollcall on purpose, and what tells whether it held.

harness    a site without HTTP: files posted, worker processes started, killed, frozen
oracle     what must stand in the tables, in plain Python
invariants what must hold after any fault, and all the while
proxy      a TCP proxy that cuts, swallows, delays and holds back what goes to Postgres
store      a store whose k-th call fails
disk       a small disk of one's own, to fill
runner     the worker processes, with small Parts
undone     the code without one of its rules; holes, listed: which rules, and the test that fails without each
chaos      everything at once, for as long as one likes: python tests/faults/chaos.py SEED SECONDS

The faults, where they are, and what the long form adds to the suite's:

F00          test_faults_sweep                            every statement and call of the store, not a sample
F04          test_worker, killed_at_random_moments        50 kills of one import, three times; 5 in the suite
F05          test_faults_sweep, killed; test_loader         as F00; 20 seeds
F06          test_faults_worker, frozen; test_worker      stalls in earnest: 20 s, where the suite is in haste
F08          test_worker, sigterm
F10          test_faults_service, rolling_restart         2 minutes, 20 imports, 10 Sources; 4 imports in the suite
F11 - F13    test_faults, goes_down_and_comes_up; test_loader, takes_acknowledged_shares_back    10 crashes, not 2
F14          test_faults, is_away; goes_while_a_body_arrives    a minute; a second in the suite
F16, F18     test_faults, others_hold_all_connections; somebody_locks    30 s; 2 s in the suite
F19          test_faults, disk_of_postgres_is_full
F20, F37     test_faults_store, a_full_disk; a_write_that_fails
F24          test_faults_store, what is read
F31          test_faults_service, stays_small             a file of 2 GiB; 64 MiB in the suite
F32          test_faults_worker, workers_die_of           poison after committed batches too
F39          test_pipeline, cancel
others       test_faults_others                           somebody else writes the same contacts
holes        test_faults_proof; test_takeover, test_loader, test_order, test_pipeline, test_database
"""
