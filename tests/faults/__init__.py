"""Faults of processes, disks, data and files: what is lost, and what is believed.

Each test has a short form, which the quick suite runs, and a long one behind the marker ``long``. Both print figures at
the end of the session.
"""
