"""Where a temporal split cuts: shares of the interactions, or points in time."""

from fractions import Fraction

from seqsweep.data_pipeline.dates import EXPECTED_DATE, microseconds
from seqsweep.data_pipeline.errors import DataError

Cut = float | int | str  # a share of the interactions, seconds since 1970, or an ISO date
DEFAULT_CUTS: tuple[Cut, Cut] = (0.8, 0.9)
END_OF_DATES = 253_402_300_800  # seconds: the year 10,000


def check_cuts(cuts: tuple[Cut, Cut]) -> None:
    """Raises DataError where no log is needed to see that the cuts can't be."""
    for cut in cuts:
        _check_cut(cut)
    first, second = cuts
    if is_share(first) == is_share(second) and number_of(first) >= number_of(second):
        raise DataError(f"the first cut must be before the second, got {first} and {second}: exchange them")


def is_share(cut: Cut) -> bool:
    return not isinstance(cut, str) and 0 < cut < 1


def number_of(cut: Cut) -> Fraction:
    """The share, or exact seconds since 1970."""
    return Fraction(microseconds(cut), 10**6) if isinstance(cut, str) else Fraction(cut)


def _check_cut(cut: Cut) -> None:
    try:
        number = number_of(cut)
    except (ValueError, OverflowError):  # no date; not finite
        number = Fraction(-1)
    if not is_share(cut) and not 1 <= number < END_OF_DATES:
        raise DataError(
            f"a cut must be a share of the interactions between 0 and 1, or {EXPECTED_DATE}, got {cut}"
        )
