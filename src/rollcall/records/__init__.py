"""Bytes in, Parts out: the part of Rollcall that reads contact files. No SQL, no network, no async; usable alone.

    plan = inspect(stream)                  what is it, how is it written, which column is what
    for part in parts(stream, plan): …      Contacts and Rejects, numbered, in file order

Streams are binary files as they were received (compressed or not). Memory is bounded whatever their size.
"""
