"""Exports a trained model as a single file for other programs, with a model card."""
