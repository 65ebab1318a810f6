class TableError(ValueError):
    """A table that can't be read, or not as it was asked; a user's to mend."""
