"""The page of a search under a promise: what was tried, what was chosen, what that one kept."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from promot_jax.base import files
from promot_jax.report.charts import figures, palette
from promot_jax.report.charts.chart import Chart, Cloud, Name, Panel, Path
from promot_jax.report.numbers.scores import decimal

# (certificate, trials) of a search, as their files hold them.
Facts = Mapping[str, Any]


def write(folder: pathlib.Path, name: str, certificate: Facts, trials: Sequence[Facts]) -> None:
    """Writes the page, as Markdown, and its figure.

    Args:
      folder: of the run.
      name: of the page.
      certificate: of the chosen candidate, see `experiment.certificate`, and `chosen`, its trial,
        `target`, its test score.
      trials: of all candidates, see `experiment.search`.
    """
    chart = _chart(certificate, trials)
    (drawn,) = figures.draw([chart], palette.by_name([t["method"] for t in trials]), folder)
    shown = [f"![{chart.alt}]({drawn.light})", f"*{chart.caption}*"]
    parts = [*_head(certificate), *shown, *_tried(certificate, trials), *_kept(certificate)]
    files.write_text(folder / name, "\n\n".join(parts) + "\n")


def card(certificate: Facts) -> str:
    """Returns the card of the model that was chosen, as Markdown: what it is and what it lost."""
    return "\n\n".join([*_head(certificate), *_kept(certificate)]) + "\n"


def _head(certificate: Facts) -> list[str]:
    kept, promise, chosen = (certificate[name] for name in ("kept", "promise", "chosen"))
    words = {"kept": "Kept", "lost": "Not kept", "open": "Not shown to be kept"}
    verdict = words[certificate["verdict"]]
    bound = f"at least {decimal(kept['low'])} % at {certificate['confidence']:g} % confidence"
    rows = {
        "Start": f"`{certificate['start']['path']}`",
        "Method": f"{chosen['label']}, at {chosen['at']:g} of its way",
        "Target, test rows": decimal(certificate["target"]),
        "Kept of the start's scores": f"{decimal(kept['share'])} %, {bound}",
        "Equal answers": f"{decimal(certificate['agreement'])} %",
        "Rows": f"{kept['rows']:,}, of which none chose anything",
        "Measured": certificate["made"],
    }
    if certificate["looks"] > 1:
        # Who looks often enough sees a promise kept by chance.
        rows["Looks"] = f"these rows have judged {certificate['looks']} candidates"
    facts = ["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())]
    return [f"# {verdict}: {promise:g} % of what the start could do", "\n".join(facts)]


def _tried(certificate: Facts, trials: Sequence[Facts]) -> list[str]:
    heads = ["Method", "At", "Target", "Kept, %", "At least, %", "Repeats itself, %", "Minutes"]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for trial in trials:
        same = all(trial[key] == certificate["chosen"][key] for key in ("method", "at"))
        label = f"**{trial['label']}**" if same else trial["label"]
        numbers = (trial["target"], trial["share"], trial["low"], trial["leak"])
        minutes = decimal(trial["seconds"] / 60)
        lines.append(_line([label, f"{trial['at']:g}", *map(decimal, numbers), minutes]))
    return ["## What was tried", "Validation rows; the chosen one is bold.", "\n".join(lines)]


def _kept(certificate: Facts) -> list[str]:
    heads = ["Task", "Metric", "Rows", "Start", "Model"]
    heads += ["Kept, %", "At least, %", "Equal answers, %"]
    lines = [_line(heads), _line(["---", "---", *["---:"] * (len(heads) - 2)])]
    for task in certificate["tasks"]:
        kept = task["kept"] or {}
        shares = [decimal(kept[name]) if kept else "–" for name in ("share", "low")]
        scores = map(decimal, (task["start"], task["model"]))
        agreement = decimal(task["agreement"])
        lines.append(
            _line([task["label"], task["metric"], str(task["rows"]), *scores, *shares, agreement])
        )
    return ["## What was kept", "\n".join(lines), certificate["covers"]]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _chart(certificate: Facts, trials: Sequence[Facts]) -> Chart:
    """Returns target against what is kept at least, with the promise as a line."""
    clouds, paths = [], []
    for method in dict.fromkeys(trial["method"] for trial in trials):
        own = [trial for trial in trials if trial["method"] == method]
        name = Name(own[0]["label"], method)
        points = {trial["at"]: (trial["target"], trial["low"]) for trial in own}
        clouds.append(Cloud(name, tuple(points.values())))
        if len(points) > 1:
            paths.append(Path(name, "Interpolation with the start", {None: points}))
    label = "Kept of the start’s scores, at least, %"
    return Chart(
        name="promise",
        title="Learned against what was kept",
        caption="Each point is a candidate on validation rows; the dashed line is the promise.",
        x_label="Target",
        panels=(
            Panel(label, clouds=tuple(clouds), paths=tuple(paths), line=certificate["promise"]),
        ),
    )
