"""Which hyperparameters decided whether a trial was among the best: Optuna's PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from seqsweep.results.report.content import StudyContent
from seqsweep.results.report.figure import Figure, plot, plot_text
from seqsweep.results.report.html import paragraph, section

MIN_TRIALS = 20
BEST_QUANTILE = 0.1
MIN_BEST = 5  # what Optuna's documentation asks for
SHOWN_SHARES = 12


@dataclass(frozen=True)
class Importance:
    shares: dict[str, float]  # add up to 1, largest first; none where there are too few trials
    num_trials: int
    num_best: int = 0


def importance(trials: Sequence[FrozenTrial], objective: Mapping[int, float]) -> Importance:
    """`objective`: the best value of each trial that counts, by its number, larger is better.

    A pruned trial counts with the best that it reached: with successive halving most are.
    """
    counted = [trial for trial in trials if trial.number in objective and trial.params]
    if len(counted) < MIN_TRIALS or len({objective[trial.number] for trial in counted}) < 2:
        return Importance({}, len(counted))
    quantile = max(BEST_QUANTILE, MIN_BEST / len(counted))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials([_complete(trial, objective[trial.number]) for trial in counted])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # experimental; few trials, which the page says
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile))
    return Importance(shares, len(counted), round(quantile * len(counted)))


def _complete(trial: FrozenTrial, value: float) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE, params=trial.params, distributions=trial.distributions, value=value
    )


def importances(content: StudyContent) -> str:
    if not content.ranked:
        return ""
    found = importance(
        content.about.trials, {int(row["trial"]): float(row["objective"]) for row in content.ranked}
    )
    if not found.shares:
        why = (
            f"Too few trials: {found.num_trials} of the {MIN_TRIALS} that an estimate takes."
            if found.num_trials < MIN_TRIALS
            else "Nothing that was searched made a difference."
        )
        return section("importance", "Importance", why)
    lead = (
        f"What set the best {found.num_best} of {found.num_trials} trials apart (PED-ANOVA; a pruned trial "
        "counts with the best it reached). Shares add up to 100 %. "
        + (
            "With so few trials it is a hint, no more."
            if found.num_trials < 5 * MIN_TRIALS
            else "A small share does not say that any value will do."
        )
    )
    shares = dict(list(_without_family(found.shares, content.families).items())[:SHOWN_SHARES])
    label = "Importance: " + ", ".join(f"{name} {value:.0%}" for name, value in shares.items())
    drawn = plot(_figure(shares), label, height=40 + 26 * len(shares))
    rest = len(found.shares) - len(shares)
    more = f"Not drawn: {rest} more, with {1 - sum(shares.values()):.0%} together."
    return section("importance", "Importance", lead, drawn, paragraph(more, "lead") if rest else "")


def _without_family(shares: Mapping[str, float], families: Sequence[str]) -> dict[str, float]:
    """`sasrec.lr` is `lr` where only one model was searched."""
    prefix = f"{families[0]}." if len(families) == 1 else ""
    return {name.removeprefix(prefix): value for name, value in shares.items()}


def _figure(shares: Mapping[str, float]) -> Figure:
    names = list(shares)[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [plot_text(name) for name in names],
        "x": [shares[name] for name in names],
        "text": [f"{shares[name]:.0%}" for name in names],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "--accent"},
        "hoverinfo": "skip",
    }
    layout = {
        "xaxis": {"visible": False, "range": [0, max(shares.values()) * 1.12]},
        "yaxis": {"type": "category", "showgrid": False, "ticklabelstandoff": 6},
        "bargap": 0.35,
    }
    return {"data": [bars], "layout": layout}
