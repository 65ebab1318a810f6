"""Names of the metrics, apart from what computes them: settings read them, and must be light to import."""

from typing import Literal, get_args

MetricName = Literal["ndcg@1", "ndcg@5", "ndcg@10", "ndcg@20", "hr@1", "hr@5", "hr@10", "hr@20", "mrr"]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)
