"""Hyperparameter sweeps with optuna."""
