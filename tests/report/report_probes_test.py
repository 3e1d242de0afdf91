"""What a report says of probes: the best checkpoint's values, over seeds."""

import json

from promot_jax.report.charts import curves, palette
from promot_jax.report.numbers import probes
from promot_jax.report.pages import markdown, page
from promot_jax.report.records import records
from tests.report.report_run import write_lines, write_run


def pages(folder):
    """Returns the page and the Markdown of a report, without figures."""
    found = records.read(folder)
    return page.page(found, palette.styles(found), []), markdown.markdown(found, [])


def measured(folder, seed, stage, values):
    """Adds scalars to a stage: {steps: {key: value}} from its best one."""
    path = folder / f"seed_{seed}" / stage
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((path / "stage.json").read_text())["best_step"]
    lines += [{"step": best + shift, **scalars} for shift, scalars in values.items()]
    write_lines(path / "metrics.jsonl", lines)


def test_values_are_those_of_the_best_checkpoint_of_the_last_stage(tmp_path):
    folder = write_run(tmp_path / "run", (0, 1))
    for seed in (0, 1):
        kl = {"kl/start_tuned/bare": 0.25 + seed / 2}
        measured(folder, seed, "model", {0: kl, -10: {"kl/start_tuned/bare": 9.0}})
        measured(folder, seed, "prompt-model", {0: {"rank/shifted/cb": 12.5}})
        # ProMoT's first stage is prompt tuning's last one.
        measured(folder, seed, "prompt", {0: {"neutral/loss": 7.0}})
    found = probes.rows(records.read(folder))
    told = {row.figure.label: row.cells for row in found}
    # In the order of methods: pretrained, fine-tuning, prompt tuning, ProMoT.
    assert told == {
        "KL(start‖tuned) on target rows": ("–", "0.500 ± 0.354", "–", "–"),
        "Loss on neutral text": ("–", "–", "7.000 ± 0.000", "–"),
        "… of CB": ("–", "–", "–", "12.5 ± 0.0"),
    }
    html, text = pages(folder)
    assert "0.500 ± 0.354" in html
    assert 'href="#probes"' in html
    assert "| KL(start‖tuned) on target rows | nats a token | – | 0.500 ± 0.354 |" in text


def test_some_are_drawn_along_training(tmp_path):
    folder = write_run(tmp_path / "run", (0,))
    assert curves.probes(records.read(folder)) is None
    measured(folder, 0, "model", {0: {"tuco/unseen": 4.0, "kl/start_tuned/bare": 0.5}})
    measured(folder, 0, "prompt-model", {0: {"kl/start_tuned/bare": 0.25, "form/json": 1.0}})
    kl, tuco = curves.probes(records.read(folder)).panels
    assert kl.label == "KL(start‖tuned) on target rows, nats a token"
    assert [list(curve.seeds[0].values()) for curve in kl.curves] == [[0.5], [0.25]]
    assert [curve.name.method for curve in tuco.curves] == ["fine_tuning"]


def test_no_probes_are_not_spoken_of(tmp_path):
    folder = write_run(tmp_path / "run", (0,))
    assert probes.rows(records.read(folder)) == []
    assert all("Probes" not in text for text in pages(folder))


def test_a_target_that_is_asked_in_another_form_is_no_pretrained_model(tmp_path):
    folder = write_run(tmp_path / "run", (0,))
    about = json.loads((folder / "run.json").read_text())
    asked = {"name": "in_context", "label": "In context", "stages": []}
    about["methods"].insert(0, asked | {"asked": {"rte": "rte_asked_3shot"}})
    (folder / "run.json").write_text(json.dumps(about))
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in [line for line in lines if line["method"] == "pretrained"]:
        form = {"evaluated_as": "rte_asked_3shot"} if line["task"] == "rte" else {}
        lines.append(line | {"method": "in_context"} | form)
    write_lines(folder / "results.jsonl", lines)
    found = records.read(folder)
    assert [method.untouched for method in found.methods] == [False, True, *[False] * 3]
    assert found.pretrained.name == "pretrained"
    assert {method.pretrained for method in found.methods} == {"pretrained"}
    html, _ = pages(folder)
    assert "RTE as they ask it, rte_asked_3shot, for In context." in html
    assert "pretrained models average" not in html
