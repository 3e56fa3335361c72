"""The parts of scripts/first_gpu.py: each takes the settings, and returns figures and a text."""
