"""The figures of a report, in order."""

import dataclasses

from promot_jax.report.charts import curves, trade_offs
from promot_jax.report.charts.chart import Chart
from promot_jax.report.numbers import frontier
from promot_jax.report.records.records import Records

_SOME = " Of more methods than can be told apart, those on the frontier, the first one, ProMoT."


def charts(records: Records) -> list[Chart]:
    """Returns the charts that the records have data for; nothing is drawn yet."""
    ends = trade_offs.finals(records)
    if not frontier.many(records):
        before, after = _along_training(records)
        return [*before, *ends, *after]
    # The figure that sums them up comes first.
    before, after = _along_training(_standing_out(records))
    told = [
        dataclasses.replace(chart, caption=chart.caption + _SOME) if chart.caption else chart
        for chart in (*before, *after)
    ]
    return [*ends, *told]


def _along_training(records: Records) -> tuple[list[Chart], list[Chart]]:
    """Returns the charts that stand before and behind those of the ends."""
    before = [
        curves.label_share(records),
        curves.unseen_score(records),
        curves.gradient_cosine(records),
        curves.probes(records),
    ]
    after = [
        *trade_offs.along_training(records),
        curves.target_score(records),
        *curves.training_losses(records),
    ]
    return [chart for chart in before if chart], [chart for chart in after if chart]


def _standing_out(records: Records) -> Records:
    """Returns the records with the stages of those methods alone that stand out."""
    names = {name for method in frontier.standing_out(records) for name in method.stages}
    stages = tuple(run for run in records.stages if run.name in names)
    return dataclasses.replace(records, stages=stages)
