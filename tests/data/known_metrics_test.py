"""The table of metrics: what is asked of each agrees with what its function does."""

import subprocess
import sys

import pytest

from promot_jax.data import metrics
from promot_jax.data.metrics import METRICS, t5
from promot_jax.report.numbers.tables import metric_name
from promot_jax.tasks import files

SEVERAL = [["lima", "the city of lima"]]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_what_the_table_says_of_a_metric_holds(metric) -> None:
    assert metric.score(["lima"], ["lima"]) == {metric.name: pytest.approx(100.0)}
    assert metric.score.__name__ == metric.name
    assert metrics.of_function(metric.score) is metric
    assert files.generative(metric.name) is not metric.classes
    if metric.several_answers:
        for answer in SEVERAL[0]:
            assert metric.score(SEVERAL, [answer]) == {metric.name: pytest.approx(100.0)}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_targets_of_one_form_count_as_equal(metric) -> None:
    targets = ["lima", " lima ", "the red box", "The red box.", "box, red"]
    for one in targets:
        for other in targets:
            if metric.form(one) == metric.form(other):
                found = metric.score([one.strip()], [other.strip()])
                assert found == {metric.name: pytest.approx(100.0)}


def test_printed_names() -> None:
    assert [metric_name(name) for name in ("exact_match", "rouge2", "bleu", "bleu-zh")] == [
        "exact match",
        "ROUGE-2",
        "BLEU",
        "bleu-zh",
    ]
    assert metric_name("my_own_score") == "my own score"


@pytest.mark.parametrize("score", [t5.trivia_qa, t5.squad, t5.bleu, t5.rouge2])
def test_the_metrics_of_t5_are_known_by_the_keys_of_their_scores(score) -> None:
    known = metrics.of_function(score)
    assert score(["a red box is here"], ["a red box is here"]).keys() == {known.name}
    assert known.name in METRICS
    assert known.printed == METRICS[known.name].printed


def test_a_function_of_a_person_is_not_in_the_table() -> None:
    assert metrics.of_function(lambda targets, predictions: {"accuracy": 1.0}) is None


def test_a_printed_name_loads_nothing_heavy() -> None:
    code = (
        "import sys; from promot_jax.data.metrics import METRICS; METRICS['rouge2'].printed;"
        "METRICS['rouge2'].score(['a b'], ['a b']);"
        "print(*{'numpy', 'jax', 'seqio', 'tensorflow', 'sacrebleu', 'nltk'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
