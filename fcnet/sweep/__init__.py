"""Hyperparameter sweeps on optuna."""
