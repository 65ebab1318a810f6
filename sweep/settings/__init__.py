"""What a user may set of a study, as typed models: light to import, and all that a study.toml holds."""
