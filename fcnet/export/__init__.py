"""A trained model as one file for other programs, with a model card."""
