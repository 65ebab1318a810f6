"""run_study(): the whole system in one readable function."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.split import Split, count_cold_targets
from seqsweep.data_pipeline.store import SequenceLog, open_log
from seqsweep.results.leaderboard import StudyFacts
from seqsweep.results.schema import TrialRecord
from seqsweep.sweep.driver.bucket_mirror import Mirror
from seqsweep.sweep.driver.opening import open_study
from seqsweep.sweep.driver.publish import Publisher
from seqsweep.sweep.driver.report_page import ReportWriter, data_facts
from seqsweep.sweep.driver.searching import search
from seqsweep.sweep.driver.session import Session
from seqsweep.sweep.driver.view import View
from seqsweep.sweep.driver.winner import export_winner
from seqsweep.sweep.engine.baselines import ceiling_records, score_baselines
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.environment import versions
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.study.finalists import winner
from seqsweep.sweep.study.study import Study

TrainTrials = Callable[[Session], None]  # `search`, or `train_alone` without Ray


@dataclass(frozen=True)
class Outcome:
    folder: Path
    stopped_because: str | None
    best: TrialRecord | None
    exported: bool = False  # whether best/ is there


def run_study(
    config: StudyConfig, view: View, warm_start: Path | None = None, train_trials: TrainTrials = search
) -> Outcome:
    """Start the study, or go on with it; what is finished already is not done again.

    A new study tries the best hparams of the study in the folder `warm_start` first.
    """
    mirror = Mirror(config.folder, config.trial_files, view.say)
    mirror.fetch()
    prepared = prepare(config.data, config.cache.absolute(), view.say)
    log = open_log(prepared)
    split = config.protocol.open_split(log, view.say)  # before there is a study: it may be refused
    with open_study(config, log, view, warm_start) as study:
        config = config.with_recorded_defaults(study.attributes.get("identity"))
        announce_split(config, study, log, split, view)
        if "data" not in study.attributes:
            study.set_attributes(data=data_facts(log.manifest, prepared))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = open_data(log, config.protocol, device, split)
        facts = study_facts(config, log, split)
        rows = reference_rows(config, study, data, view)
        report = ReportWriter(study, config.folder, view.say)
        publisher = Publisher(study, config.folder, facts, rows, config.trial_files, report)
        publisher.write()
        if study.has_more:
            train_trials(Session(config, study, data, publisher, mirror, view))
        mirror.copy()
        publisher.write()
        mirror.copy()
        if study.stopped_because is not None and not study.stopped_by_budget:
            return Outcome(config.folder, study.stopped_because, study.best())
        best = winner(study.records(), study.finalist_runs())
        if best is not None:
            view.say(f"test metrics and export of trial {best.trial}")
            best = export_winner(config, best, study, data, prepared, facts, publisher, rows)
            publisher.write(best)
            mirror.copy()
        return Outcome(config.folder, study.stopped_because, best, exported=best is not None)


def announce_split(config: StudyConfig, study: Study, log: SequenceLog, split: Split, view: View) -> None:
    """Who trains and who is evaluated; counted once, then kept with the study."""
    if "split" not in study.attributes:
        study.set_attributes(split={**split.counts, **count_cold_targets(log, split)})
    counts = study.attributes["split"]
    told = [f"{number:,} {name.removeprefix('num_').replace('_', ' ')}" for name, number in counts.items()]
    view.say(f"{config.protocol.describe(log, split)}: {', '.join(told)}")


def study_facts(config: StudyConfig, log: SequenceLog, split: Split) -> StudyFacts:
    return StudyFacts(
        study=config.name,
        fingerprint=log.manifest.fingerprint,
        objective=f"valid.{config.training.objective}",
        protocol=config.protocol.describe(log, split),
        versions=versions(),
    )


def reference_rows(config: StudyConfig, study: Study, data: TrialData, view: View) -> list[TrialRecord]:
    """Baselines and ceilings; scored once, then kept with the study."""
    if "baselines" not in study.attributes:
        view.say("scoring the baselines")
        scored = score_baselines(data, config.protocol, config.training.objective)
        study.set_attributes(baselines=[asdict(record) for record in scored])
    baselines = [TrialRecord(**row) for row in study.attributes["baselines"]]
    return baselines + ceiling_records(data.log.manifest, config.protocol, config.training.objective)
