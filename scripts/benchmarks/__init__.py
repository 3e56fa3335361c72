"""The benchmarks of scripts/benchmark.py, one topic per module."""
