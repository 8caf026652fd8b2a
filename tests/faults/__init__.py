"""What breaks Rollcall on purpose, and what tells whether it held.

harness    a site without HTTP: files posted, worker processes started, killed, frozen
oracle     what must stand in the tables, in plain Python
proxy      a TCP proxy that cuts, swallows and delays what goes to Postgres
store      a store whose k-th call fails
runner     the worker process, with small Parts
chaos      everything at once, for as long as one likes: python tests/faults/chaos.py SEED SECONDS
"""
