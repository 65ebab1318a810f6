"""Mistakes that are a user's to mend: the command line prints their message and no traceback."""

from __future__ import annotations

import errno

from pydantic import ValidationError

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


class StudyError(UserError, ValueError):
    """What was asked does not fit the study."""


def describe_validation_error(error: ValidationError, what: str) -> str:
    """One line for each thing wrong: the key, what was given, what is allowed."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        is_secret = key == "storage"  # it may hold keys
        given = "" if isinstance(problem["input"], dict) or is_secret else f", got {problem['input']!r}"
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        lines.append(f"{what} {key}: {message}{given}" if key else f"{what}s: {message}")
    return "\n".join(lines)
