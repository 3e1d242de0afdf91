"""The search under a promise: which points are measured, and which candidate is chosen."""

import pathlib
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promot_jax.base import jsonl
from promot_jax.experiment.comparison import Rows
from promot_jax.experiment.search import HALVINGS, Search, Trial
from promot_jax.training.stages import Method


class Known(Search):
    """A search whose candidates keep what a function of the point says; nothing is trained."""

    def __init__(self, folder, methods, low, promise=98.0, curve=True):
        experiment = types.SimpleNamespace(seeds=(0,), selected=methods)
        runner = types.SimpleNamespace(
            experiment=experiment,
            folder=types.SimpleNamespace(path=folder),
            points=types.SimpleNamespace(usual=lambda method: curve or None),
        )
        super().__init__(runner, Rows(()), promise, 95.0)
        self._low, self.measured = low, []

    def _measure(self, method, at):
        if self._known(method, at) is None:
            self.measured.append((method.name, at))
            low = self._low(method.name, at)
            trial = Trial(method.name, method.label, at, 100 * at, low + 1, low, 0.0, 1.0)
            jsonl.append_jsonl(self._file, [vars(trial)])
            self.trials.append(trial)


METHODS = [Method("one", "One"), Method("two", "Two")]


def test_an_end_that_keeps_the_promise_needs_no_points(tmp_path):
    search = Known(tmp_path, METHODS, lambda name, at: 99.0)
    search.run()
    assert search.measured == [("one", 1.0), ("two", 1.0)]
    assert search.best().method == "one"


@given(edge=st.floats(0.01, 0.99))
def test_points_close_in_on_the_edge_of_the_promise(edge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    search = Known(folder, METHODS[:1], lambda name, at: 99.0 if at <= edge else 90.0)
    search.run()
    assert len(search.measured) == 1 + HALVINGS
    kept = [trial.at for trial in search.trials if trial.keeps(98)]
    # The largest of the points that are tried keeps it, to an eighth of the way.
    width = 0.5**HALVINGS
    assert max(kept, default=0.0) == pytest.approx(edge // width * width)
    assert (search.best() and search.best().at) == max(kept, default=None)


def test_a_method_without_a_curve_has_its_end_alone(tmp_path):
    search = Known(tmp_path, METHODS[:1], lambda name, at: 0.0, curve=False)
    search.run()
    assert search.measured == [("one", 1.0)]
    assert search.best() is None


def test_of_those_that_keep_it_the_best_target_is_chosen_else_the_nearest(tmp_path):
    lows = {"one": 99.9, "two": 97.9}
    search = Known(tmp_path, METHODS, lambda name, at: lows[name] + (at < 0.3))
    search.run()
    assert (search.best().method, search.best().at) == ("one", 1.0)
    strict = Known(tmp_path / "strict", METHODS, lambda name, at: lows[name] - at, promise=99.99)
    (tmp_path / "strict").mkdir()
    strict.run()
    assert strict.best() is None
    assert (strict.nearest().method, strict.nearest().at) == ("one", 0.125)


def test_a_search_goes_on_where_it_was(tmp_path):
    def low(name, at):
        return 90.0

    whole = Known(tmp_path, METHODS, low)
    whole.run()
    lines = (tmp_path / "trials.jsonl").read_text().splitlines(keepends=True)
    for count in range(len(lines)):
        # The last line was being written when it was killed.
        (tmp_path / "trials.jsonl").write_text("".join(lines[:count]) + lines[count][:20])
        rest = Known(tmp_path, METHODS, low)
        rest.run()
        assert rest.measured == whole.measured[count:]
        assert rest.trials == whole.trials


def test_no_candidate_is_begun_after_the_time_is_over(tmp_path, capsys):
    search = Known(pathlib.Path(tmp_path), METHODS, lambda name, at: 99.0)
    search.run(seconds=0.0)
    assert search.measured == []
    assert "the time is over" in capsys.readouterr().out
