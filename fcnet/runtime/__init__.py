"""Foundations of every other package: errors, files, locks, seeds, processes, memory and hardware."""
