"""Mistakes that are a user's to mend: the command line prints their message and no traceback."""

import errno

# A disk that is full, a quota that is used, a file system that was set read-only.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class UserError(Exception):
    """The condition, then the values, then the way out."""


class ConfigError(UserError, ValueError):
    """A setting that cannot be."""


class ClusterError(UserError, RuntimeError):
    """The cluster cannot do what was asked."""


def first_line(error: BaseException) -> str:
    """Of what a library says, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
