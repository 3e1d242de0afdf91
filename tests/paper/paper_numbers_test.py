"""The paper's figures: their averages recompute, and tables agree, but for what is named."""

import pytest

from promot_jax.paper import catalog, numbers

# Half a unit of the last printed digit, and the slack of binary fractions.
ROUNDING = 0.005 + 1e-6
COLUMNS = [(name, column) for name, columns in numbers.TABLES.items() for column in columns]


# Sums of all scores as read from the paper by a program, row by row. Table 7 shows the unseen
# scores of pretrained and of prompt tuning (140.19 each) once, for both of its targets.
SUMS = {
    "table-5.2": 898.02,
    "table-5.2-rte": 1559.733,
    "table-5.3": 1234.32,
    "table-2": 1477.542,
    "table-3": 948.52,
    "table-6": 267.24,
    "table-7": 1208.62 + 2 * 140.19,
    "table-8": 884.65,
    "table-9": 506.26,
    "table-10": 818.48,
    "table-11": 705.09,
}


def named(table):
    return " ".join(catalog.item(table).remarks)


def test_every_figure_is_there():
    assert set(SUMS) == set(numbers.TABLES)
    for table, columns in numbers.TABLES.items():
        scores = [s for c in columns for s in c.targets.values() if s is not None]
        scores += [s for c in columns for values in c.unseen.values() for s in values]
        assert round(sum(scores), 4) == round(SUMS[table], 4), table


def test_averages_are_plain_means_of_eight_but_for_two():
    wrong, checked = {}, 0
    for table, column in COLUMNS:
        for shots, printed in column.averages.items():
            mean = sum(column.unseen[shots]) / 8
            checked += 1
            if abs(mean - printed) > ROUNDING:
                wrong[table, column.run, column.method] = round(mean, 3), printed
    assert checked == 41
    assert wrong == {
        ("table-7", "openbookqa", "fine_tuning"): (0.006, 0.00),
        ("table-10", "enfr", "fine_tuning"): (17.928, 17.80),
    }
    assert "0.006" in named("table-7")
    assert "17.93" in named("table-10")


def test_changes_are_differences_of_averages():
    checked = 0
    for table, columns in numbers.TABLES.items():
        bases = {c.run: c.averages for c in columns if c.method == "pretrained"}
        for column in columns:
            for shots, printed in column.changes.items():
                difference = column.averages[shots] - bases[column.run][shots]
                # Both averages are rounded already.
                assert abs(difference - printed) < 0.01 + ROUNDING, (table, column)
                checked += 1
    assert checked == 26


def test_tables_agree_on_the_same_score_but_for_one():
    found = {}
    for table, column in COLUMNS:
        model = catalog.item(table).model
        scores = {(task, 0): value for task, value in column.targets.items()}
        for shots, values in column.unseen.items():
            scores |= {
                (task, shots): value for task, value in zip(numbers.UNSEEN, values, strict=True)
            }
        for (task, shots), value in scores.items():
            # Every run of a model starts from the same pretrained one.
            run = "any" if column.method == "pretrained" else column.run
            key = (model, run, column.method, task, shots)
            if value is not None:
                found.setdefault(key, {})[table] = round(value, 2)
    shared = {key: tables for key, tables in found.items() if len(tables) > 1}
    assert len(shared) > 30
    different = {key: tables for key, tables in shared.items() if len(set(tables.values())) > 1}
    assert {key[2:4] for key in different} == {
        ("promot", "wmt14_enfr"),
        *(
            ("fine_tuning", task)
            for task in ("triviaqa", "web_questions", "wmt16_ende", "wmt16_enro", "xsum")
        ),
        ("fine_tuning", "wikilingua"),
    }
    assert all("table-11" in tables for tables in different.values())
    assert "41.19 here and 41.30" in named("table-11")
    assert "six of the eight" in named("table-11")


def test_section_5_2_says_what_its_table_shows():
    scores = {
        (column.run, column.method): next(iter(column.targets.values()))
        for column in numbers.TABLES["table-5.2"]
    }
    runs = ("rte", "enfr", "snli", "openbookqa")
    assert sum(scores[run, "promot"] > scores[run, "fine_tuning"] for run in runs) == 3
    assert sum(scores[run, "promot"] > scores[run, "prompt_tuning"] for run in runs) == 4


@pytest.mark.parametrize("table", numbers.TABLES)
def test_columns_name_what_there_is(table):
    item = catalog.item(table)
    known = catalog.models()[item.model]
    for column in item.columns:
        assert column.run in known
        assert column.method in catalog.METHODS
        assert set(column.targets) <= set(catalog.TARGETS)
        assert all(len(values) == len(numbers.UNSEEN) for values in column.unseen.values())
        scores = [s for s in column.targets.values() if s is not None]
        assert all(0 <= s <= 100 for values in (*column.unseen.values(), scores) for s in values)
    assert tuple(catalog.UNSEEN) == numbers.UNSEEN


def test_every_item_has_a_model_and_runs_or_points_elsewhere():
    assert len({item.id for item in catalog.ITEMS}) == len(catalog.ITEMS) == 21
    assert set(numbers.TABLES) <= {item.id for item in catalog.ITEMS}
    for item in catalog.ITEMS:
        assert bool(item.columns) != bool(item.shown)
        if item.runs:
            assert set(catalog.runs_of(item, item.model)) == set(item.runs)
