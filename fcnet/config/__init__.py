"""The typed configuration, its TOML files, and the presets that come with the package."""
