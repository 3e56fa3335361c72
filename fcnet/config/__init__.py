"""Configurations: their schema, their TOML files and the presets."""
