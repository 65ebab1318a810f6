"""At which epochs a trial is validated."""

from __future__ import annotations

from collections.abc import Collection

from seqsweep.sweep.settings.budgets import EvalSchedule

GROWTH = 20  # until the next validation pass a twentieth of the epochs that lie behind


def next_evaluation(
    epoch: int,
    schedule: EvalSchedule,
    *,
    rungs: Collection[int],
    last_epoch: int,
    growth: int = GROWTH,
) -> int:
    """The first epoch after `epoch` that is validated.

    `sparse` begins at the first of `rungs`, before which nothing is decided, without rungs at 1; goes on with
    each epoch, and from 40 on with every second, from 60 on with every third .. (`growth`). Rungs, and
    `last_epoch`, where training ends if nothing becomes better, come in between and shift nothing: trials
    with equal rungs are compared at equal epochs.
    """
    if schedule == "every":
        return epoch + 1
    regular = min(rungs, default=1)
    while regular <= epoch:
        regular += max(1, regular // growth)
    return min([regular, last_epoch, *(rung for rung in rungs if rung > epoch)])
