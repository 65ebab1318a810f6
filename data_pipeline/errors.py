"""A mistake in a log or in what is asked of it."""


class DataError(ValueError):
    """A mistake in the user's data or settings, told in one message: where, what, and the way out."""
