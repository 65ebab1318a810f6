"""Measured by hand and by `make bench`, never timed inside tests."""

import seqsweep.sweep  # noqa: F401  # says how Ray authenticates, before any script imports Ray
