"""Trains one configuration over several seeds, without a search: what a model reaches on a log.

python -m benchmarks.quality --data ../shared/data/ml-1m/ml-1m.txt.gz --set model=sasrec --set max_len=200
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import add_settings, set_up, write
from data_pipeline.config import DataConfig
from data_pipeline.prepare import prepare
from data_pipeline.store import open_log
from results.metrics import compute_metrics
from sweep.arguments import pairs
from sweep.evaluation import ModelScorer, ProtocolConfig, Ranker
from sweep.hparams import typed_configs
from sweep.training import TrainBudget, build_model, new_state, train
from sweep.trial import TrialData, open_data


def train_once(
    data: TrialData,
    protocol: ProtocolConfig,
    hparams: dict[str, Any],
    budget: TrainBudget,
    max_epochs: int,
    seed: int,
) -> dict[str, Any]:
    """Metrics of the best epoch on validation and on test, epochs, minutes."""
    device = data.sequences.device
    model_class, model_config, config = typed_configs(hparams)
    state = new_state(
        build_model(model_class, model_config, data.log.num_items, seed=seed, device=device), config
    )
    started = time.perf_counter()
    for report in train(
        state, config, budget, data.sequences, data.valid_ranker, max_epochs=max_epochs, seed=seed
    ):
        print(
            f"  seed {seed} epoch {report.epoch}: loss {report.loss:.4f}, {budget.objective} "
            f"{report.objective:.4f}, {report.seconds:.1f} + {report.eval_seconds:.1f} s",
            flush=True,
        )
    minutes = (time.perf_counter() - started) / 60
    state.model.load_state_dict(state.best_weights)
    state.model.eval()
    ranker = Ranker(data.log, data.sequences, data.split.test, protocol, "test")
    test = compute_metrics(ranker.rank(ModelScorer(state.model)))
    best = state.best
    return {
        "seed": seed,
        "parameters": state.num_parameters,
        "epochs": state.epoch,
        "validations": len(state.reports),
        "best_epoch": best.epoch,
        "minutes": round(minutes, 2),
        "epoch_s": round(sum(report.seconds for report in state.reports) / state.epoch, 2),
        "rank_s": round(statistics.median(report.eval_seconds for report in state.reports), 2),
        "valid": {name: round(best.valid[name], 4) for name in ("ndcg@10", "hr@10")},
        "test": {name: round(test[name], 4) for name in ("ndcg@10", "hr@10")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--set", action="append", default=[], metavar="HPARAM=VALUE")
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--ranking", default="full")
    parser.add_argument("--seeds", type=int, default=1)
    add_settings(parser)
    arguments = parser.parse_args()
    device = set_up(arguments)
    protocol = ProtocolConfig(ranking=arguments.ranking)
    hparams = {"model": "sasrec", **pairs(arguments.set, "--set")}
    with tempfile.TemporaryDirectory() as cache:
        log = open_log(prepare(DataConfig(path=arguments.data), Path(cache)))
        data = open_data(log, protocol, device)
        budget = TrainBudget(patience=arguments.patience)
        results = [
            train_once(data, protocol, hparams, budget, arguments.max_epochs, seed)
            for seed in range(arguments.seeds)
        ]
    for part in ("valid", "test"):
        for name in ("ndcg@10", "hr@10"):
            values = [result[part][name] for result in results]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            print(f"{part} {name} {statistics.mean(values):.4f}{spread}")
    rows = [{"data": Path(arguments.data).name, **result} for result in results]
    write("quality", rows, arguments, device=device, hparams=hparams)


if __name__ == "__main__":
    main()
