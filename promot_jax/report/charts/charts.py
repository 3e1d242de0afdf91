"""The figures of a report, in order."""

from promot_jax.report.charts import curves, trade_offs
from promot_jax.report.charts.chart import Chart
from promot_jax.report.records.records import Records


def charts(records: Records) -> list[Chart]:
    """Returns the charts that the records have data for; nothing is drawn yet."""
    found = [
        curves.label_share(records),
        curves.unseen_score(records),
        curves.gradient_cosine(records),
        curves.probes(records),
        *trade_offs.finals(records),
        *trade_offs.along_training(records),
        curves.target_score(records),
        *curves.training_losses(records),
    ]
    return [chart for chart in found if chart is not None]
