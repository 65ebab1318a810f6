"""Mistakes that are a user's to mend: the command line prints their message and no traceback."""


class UserError(Exception):
    """The condition, then the values, then the way out."""


class ConfigError(UserError, ValueError):
    """A setting that cannot be."""


class ClusterError(UserError, RuntimeError):
    """The cluster cannot do what was asked."""
