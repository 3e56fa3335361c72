"""Experiments in run folders: built from a configuration, trained, checkpointed, resumed and evaluated."""
