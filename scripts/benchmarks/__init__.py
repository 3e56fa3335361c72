"""What scripts/benchmark.py measures, and how: a topic a module."""
