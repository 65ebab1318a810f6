"""A mistake that is the user's to mend: the command line prints its message and no traceback."""


class SpaceError(ValueError):
    """What was pinned, narrowed or given as a point does not fit the space."""
