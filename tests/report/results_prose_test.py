"""The numbers in the sentences of docs/results.md are those of the reports or of the records."""

import functools
import pathlib
import re
import statistics

import pytest

from promot_jax.report import build
from promot_jax.report.numbers import equal_target, following, scores

ROOT = pathlib.Path(__file__).parent.parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = (ROOT / "docs" / "results.md").read_text()
SECTIONS = {part.splitlines()[0].lstrip("# "): part for part in re.split(r"(?m)^(?=##+ )", PAGE)}
NUMBER = r"−?(?<![\w.])\d+\.\d+(?!\w|\.\d)"

# Settings, and the paper's scores.
GIVEN = {"0.001", "0.0002", "92.78", "91.34"}


@functools.cache
def records(run):
    return build.read([RESULTS / run])


def at(run, stage, step, quantity, seed=None):
    """What was followed at a step of a stage: the mean over the seeds, or with one of them."""
    stages = [one for one in records(run).stages if one.name == stage and seed in (None, one.seed)]
    return statistics.mean(quantity.series(one)[step] for one in stages)


def kept(run, stage, step, seed=None):
    return at(run, stage, step, following.families(records(run), following.SCORE)[0], seed)


def questions(run, stage, step):
    return at(run, stage, step, following.questions(records(run), following.SCORE))


def target(run, stage, step, seed=None):
    (followed,) = following.targets(records(run), records(run).targets)
    return at(run, stage, step, followed, seed)


def cosines(run, stage, step, seed=None):
    groups = [following.Followed(name, (f"cosine/{name}",)) for name in ("query", "key", "value")]
    return [at(run, stage, step, group, seed) for group in groups]


def on_test_rows(run, name):
    """The target's scores on test rows, seed by seed."""
    return scores.task_score(records(run), method(run, name), records(run).targets[0]).values


def shares(run, name):
    """The label share over the generative tasks on test rows, seed by seed."""
    return scores.label_share(records(run), method(run, name)).values


def method(run, name):
    return next(one for one in records(run).methods if one.name == name)


def pair(run, name, number):
    """What fine-tuning and a method kept where both were as good, with one of the seeds."""
    (comparison,) = equal_target.comparisons(records(run))
    found = next(pair for pair in comparison.pairs if pair.method.name == name)
    return found.first_kept.values[number], found.kept.values[number]


# What stands in no table, by section, in the order of the page.
MEASURED = {
    "The main job: the miniature": lambda: {
        "92.2": target("mini", "prompt-model", 600),
        "91.4": target("mini", "model", 1000),
        "79.5": kept("mini", "prompt-model", 600),
        "54.4": kept("mini", "prompt-model", 1000),
    },
    "What makes it forget": lambda: {
        "81.7": kept("controls/none", "prompt-model", 200, 5),
        "66.8": kept("controls/none", "prompt-model", 1000, 5),
    },
    "Is a lower rate enough?": lambda: {"81.6": kept("mini", "model", 0)},
    "The paper's ablations": lambda: {
        "99.8": target("ablations", "lora_r2", 2000),
        "86.4": target("ablations", "prompt", 2000),
    },
    "Once more, with 1-shot inputs": lambda: {
        "85.0": on_test_rows("mini_1shot", "prompt_tuning")[0],
        "98.0": on_test_rows("mini", "prompt_tuning")[0],
    },
    "A second base": lambda: {
        "63.5": min(on_test_rows("second_base", "prompt_tuning")),
        "88.5": max(on_test_rows("second_base", "prompt_tuning")),
        "90.5": min(on_test_rows("mini", "prompt_tuning")),
        "99.5": max(on_test_rows("mini", "prompt_tuning")),
        "83.9": pair("second_base", "promot", 2)[1],
        "48.5": pair("second_base", "promot", 2)[0],
    },
    "A real model": lambda: {
        "33.3": target("smollm2/vitaminc", "model", 75, 0),
        "91.4": shares("smollm2/vitaminc", "fine_tuning")[0],
        "52.1": shares("smollm2/vitaminc", "fine_tuning")[1],
        "0.99": min(cosines("smollm2/vitaminc", "model", 0)),
        "1.00": max(cosines("smollm2/vitaminc", "model", 0)),
        "−0.05": cosines("smollm2/vitaminc", "model", 225)[0],
        "67.7": shares("smollm2/vitaminc", "promot_1shot")[0],
        "22.4": shares("smollm2/vitaminc", "promot_1shot")[1],
        "−0.67": cosines("smollm2/vitaminc", "prompt-model", 0, 1)[0],
        "0.97": cosines("smollm2/vitaminc", "prompt-model", 0, 0)[0],
    },
    "English to French": lambda: {
        "31.5": on_test_rows("smollm2/enfr", "promot")[0],
        "27.0": on_test_rows("smollm2/enfr", "promot")[1],
        "31.9": on_test_rows("smollm2/enfr", "fine_tuning")[0],
        "35.6": on_test_rows("smollm2/enfr", "fine_tuning")[1],
        "34.4": questions("smollm2/enfr", "prompt_1shot-model_1shot", 150),
        "23.4": questions("smollm2/enfr", "model", 150),
        "29.7": questions("smollm2/enfr", "prompt-model", 300),
        "21.9": questions("smollm2/enfr", "model", 300),
    },
}


@pytest.mark.parametrize("section", MEASURED)
def test_a_number_of_no_table_is_that_of_the_records(section):
    for shown, found in MEASURED[section]().items():
        digits = len(shown.partition(".")[2])
        assert f"{found:.{digits}f}".replace("-", "−") == shown
        assert shown in SECTIONS[section]


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "Results"])
def test_a_sentence_has_numbers_of_tables(section):
    text = SECTIONS[section]
    tables, prose = lines(r"\|", text), lines(r"(?!\|)", text)
    # Not what the reports' figures tell, except where their records are not here.
    told = r"" if section == "The paper's tables in miniature" else r"(?!!)"
    for report in set(re.findall(r"\]\((results/[^)]*\.md)\)", text)):
        tables += lines(told, (ROOT / "docs" / report).read_text())
    known = set(re.findall(NUMBER, tables))
    known |= {f"{float(number.replace('−', '-')):.2f}" for number in known}
    known |= GIVEN | MEASURED.get(section, dict)().keys()
    # Not the targets of links, commands, and what describes the machine.
    machine = r"[\d.]+ (?:GiB|hours)|(?:Python|jax|Table) [\d.]+"
    prose = re.sub(rf"\]\([^)]*\)|`[^`]*`|{machine}", "", prose)
    assert set(re.findall(NUMBER, prose)) - known == set()


def lines(beginning, text):
    return "".join(re.findall(rf"^{beginning}.*\n", text, re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "docs/when_to_use.md"])
def test_other_pages_have_numbers_of_the_results(page):
    # Not the targets of links, versions of Python and sizes of models.
    other = r"\]\([^)]*\)|`[^`]*`|\b3\.1\d\b|[\d.]+ M\b"
    prose = re.sub(other, "", (ROOT / page).read_text())
    assert set(re.findall(NUMBER, prose)) - set(re.findall(NUMBER, PAGE)) == set()
