"""The winner's model, measured once more and written to `best/` with all that its use needs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from seqsweep.data_pipeline.dates import iso_date
from seqsweep.data_pipeline.store import read_item_ids
from seqsweep.data_pipeline.views.device import personal_clocks
from seqsweep.models import ModelConfig
from seqsweep.results.best_folder import export_best
from seqsweep.results.leaderboard import StudyFacts
from seqsweep.results.metrics import compute_metrics
from seqsweep.results.model_card import model_card
from seqsweep.results.schema import TrialRecord
from seqsweep.sweep.best_model.evaluate import measure
from seqsweep.sweep.best_model.model_folder import Clock, ExportedConfig
from seqsweep.sweep.driver.publish import Publisher
from seqsweep.sweep.engine.device_name import threads_of
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.opened_log import TrialData
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.storage.trial_files import checkpoint_path, load_checkpoint
from seqsweep.sweep.study.finalists import spread_columns, spreads
from seqsweep.sweep.study.study import Study


def export_winner(
    config: StudyConfig,
    best: TrialRecord,
    study: Study,
    data: TrialData,
    prepared: Path,
    facts: StudyFacts,
    publisher: Publisher,
    references: Sequence[TrialRecord],
) -> TrialRecord:
    """Write `best/`, and give the winner's record with its test metrics."""
    assert best.trial is not None
    device = data.sequences.device
    checkpoint = load_checkpoint(checkpoint_path(config.trial_files, best.trial), device)
    model_class, model_config, _ = typed_configs(best.hparams)
    model = model_class(model_config, data.log.num_items).to(device).eval()
    model.load_state_dict(checkpoint["state"]["best_weights"])
    exported = exported_config(config, best, study, data, model_config)
    rankers = {
        "valid": data.valid_ranker,
        "test": Ranker(data.log, data.sequences, data.split.test, config.protocol, "test"),
    }
    scorer = ModelScorer(model, autocast=exported.autocast and device.type == "cuda")
    ranks = measure(scorer, rankers, exported.num_threads)
    test = compute_metrics(ranks["test"])
    winner = dataclasses.replace(best, test=test)
    of_users = spread_columns(*(spreads([ranks[part]], best.trial) for part in ("valid", "test")))
    finalist_of = exported.finalist_of
    export_best(
        config.folder,
        weights={name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()},
        config=exported.model_dump(mode="json"),
        item_ids=read_item_ids(prepared),
        metrics={
            "objective": facts.objective,
            "protocol": facts.protocol,
            "num_valid_users": len(rankers["valid"].user_id_U),
            "num_test_users": len(rankers["test"].user_id_U),
            "valid": dict(winner.valid),
            "test": test,
        },
        card=model_card(
            winner,
            facts,
            card_facts(data, study),
            finalist_objectives(study, best.trial),
            intervals=of_users if finalist_of is None else publisher.finalist(finalist_of).spread,
            references=references,
            found=how_found(config, study, best),
        ),
    )
    return winner


def exported_config(
    config: StudyConfig, best: TrialRecord, study: Study, data: TrialData, model_config: ModelConfig
) -> ExportedConfig:
    manifest = data.log.manifest
    clock = None
    if manifest.time_unit is not None:
        _, unit_U = personal_clocks(data.log, data.split.train_end_U)
        clock = Clock(unit=manifest.time_unit, usual_gap=max(1, int(np.median(unit_U))))
    assert best.trial is not None
    seen: Literal["remove", "keep"] = "remove" if config.protocol.removes_seen(data.log) else "keep"
    return ExportedConfig(
        model=str(best.model),
        hparams=dict(best.hparams),
        config=model_config.model_dump(),
        num_items=manifest.num_items,
        fingerprint=manifest.fingerprint,
        trial=best.trial,
        finalist_of=study.finalist_of(best.trial),
        epoch=best.best_epoch,
        protocol=config.protocol.model_copy(update={"seen": seen}),
        data=config.data.model_copy(update={"path": Path(config.data.path).name}),
        autocast=config.training.autocast,
        num_threads=None if best.device is None else threads_of(best.device),
        clock=clock,
    )


def card_facts(data: TrialData, study: Study) -> dict[str, object]:
    """For the model card."""
    manifest = data.log.manifest
    facts: dict[str, object] = {"log": manifest.name}
    for step in manifest.counts:
        who = "" if step.num_users is None else f", {step.num_users:,} users, {step.num_items:,} items"
        facts["as read" if step.step == "read" else f"after {step.step}"] = (
            f"{step.num_rows:,} interactions{who}"
        )
    facts["prepared"] = (
        f"{manifest.num_interactions:,} interactions, {manifest.num_users:,} users, "
        f"{manifest.num_items:,} items"
    )
    if manifest.time_range is not None and manifest.time_unit is not None:
        begin, end = (iso_date(time, manifest.time_unit) for time in manifest.time_range)
        facts["time"] = f"{begin} to {end}"
    return facts | {
        "neighbours with equal times": f"{manifest.tie_share:.1%}",
        "repeats": f"{manifest.repeat_share:.1%}",
        "cold test targets": study.attributes["split"]["num_cold_test_targets"],
    }


def how_found(config: StudyConfig, study: Study, best: TrialRecord) -> dict[str, object]:
    """For the model card."""
    counts = [f"{number} {state}" for state, number in sorted(study.counts().items()) if number]
    finalists = study.finalist_runs()
    return {
        "sampler": study.search.sampler,
        "pruner": study.search.pruner,
        "trials": ", ".join(counts),
        **({"trainings of finalists": len(finalists)} if finalists else {}),
        "device hours": f"{study.device_seconds / 3600:.2f}",
        "seed": config.seed,
        "train it again": f"`seqsweep reproduce {config.name} {best.trial}`",
    }


def finalist_objectives(study: Study, trial_number: int) -> list[float]:
    """The objectives of the complete trainings of the finalist that this trial is one of; else none."""
    finalist_of = study.finalist_of(trial_number)
    runs = [run.record for run in study.finalist_runs() if run.finalist_of == finalist_of]
    return [r.objective for r in runs if r.state == "complete" and r.objective is not None]
