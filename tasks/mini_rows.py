"""Rows of the small world's two target tasks and eight evaluation tasks, in three disjoint splits.

Every row is an `(inputs, targets)` pair of strings in a template of the paper's Table 4. Rows
depend on `SEED` alone; no row occurs twice in a task, so splits are disjoint by construction.
Validation and test rows are held out of `mini_pretrain` too: their question wordings, word pairs,
summaries and premise-hypothesis pairs never occur there.
"""

import functools
import itertools
import random
from collections.abc import Callable, Sequence

from promot_jax.tasks import mini_world as world
from promot_jax.tasks import templates

Row = tuple[str, str]

SEED = 0
SPLIT_SIZES = {"train": 400, "validation": 200, "test": 200}
RTE_SPLIT_SIZES = {"train": 4000, "validation": 400, "test": 400}
ENFR_SPLIT_SIZES = {"train": 4000, "validation": 200, "test": 200}

# Four wordings of each fact. Of every (fact, country) two are for pretraining and exemplars, one
# for validation, one for test: the fact is known, its question is new.
_TRIVIA_WORDINGS = {
    ("name", "capital"): (
        "what is the capital of {}?",
        "which city is the capital of {}?",
        "what is the name of the capital of {}?",
        "the capital of {} is which city?",
    ),
    ("city", "name"): (
        "in which country is {}?",
        "which country has the city {}?",
        "{} is a city in which country?",
        "in what country do people find {}?",
    ),
    ("capital", "name"): (
        "{} is the capital of which country?",
        "which country has the capital {}?",
        "of which country is {} the capital?",
        "what country has its capital in {}?",
    ),
}
_WEB_WORDINGS = {
    ("name", "currency"): (
        "what is the currency of {}?",
        "what money do people use in {}?",
        "which currency do people in {} use?",
        "how do people pay in {}?",
    ),
    ("name", "language"): (
        "what language is spoken in {}?",
        "which language do people in {} speak?",
        "what is the language of {}?",
        "what do people speak in {}?",
    ),
    ("name", "continent"): (
        "on which continent is {}?",
        "what continent is {} in?",
        "which continent is {} part of?",
        "what is the continent of {}?",
    ),
}
QA_WORDINGS = {"triviaqa": _TRIVIA_WORDINGS, "web_questions": _WEB_WORDINGS}


def seeded(name: str) -> random.Random:
    """Returns a generator that depends on `SEED` and `name` only (not on PYTHONHASHSEED)."""
    return random.Random(f"{SEED}/{name}")


# ---- statements about people ---------------------------------------------------------------------


def state(kind: str, name: str, value: str, wording: int = 0) -> str:
    """Words one fact about a person; see `mini_world.Kind.wordings`."""
    return world.KINDS[kind].wordings[wording].format(name=name, value=value)


def random_value(rng: random.Random, kind: str) -> str:
    """Draws a value of a kind of fact."""
    return rng.choice(world.KINDS[kind].values)


def random_facts(rng: random.Random, kinds: Sequence[str]) -> list[tuple[str, str, str]]:
    """Draws a (kind, name, value) for each kind; two people share the facts."""
    people = rng.sample(world.NAMES, 2)
    return [(kind, rng.choice(people), random_value(rng, kind)) for kind in kinds]


def premise_of(facts: Sequence[tuple[str, str, str]]) -> str:
    """Joins the facts' statements to a premise."""
    return " ".join(state(*fact) for fact in facts)


def rte_pair(rng: random.Random, label: str) -> tuple[str, str]:
    """Draws a premise of two or three facts and a hypothesis for the given RTE label.

    True: the hypothesis rewords one of the facts. False: it tells a fact of a kind that the
    premise does not hold, about one of its people. The hypothesis and the premise, each alone,
    have the same distribution under both labels; only together do they tell the label.
    """
    kinds = rng.sample(list(world.KINDS), rng.choice((2, 3)) + 1)
    facts = random_facts(rng, kinds[1:])
    kind, name, value = rng.choice(facts)
    if label == "False":
        kind = kinds[0]
        value = random_value(rng, kind)
    return premise_of(facts), state(kind, name, value, wording=rng.choice((1, 2)))


def cb_pair(rng: random.Random, label: str) -> tuple[str, str]:
    """Draws a premise of two or three facts and a hypothesis for the given CB label.

    True rewords a fact, False gives it another value of an exclusive kind, Neither tells of an
    exclusive kind that the premise does not hold. As with RTE, neither the premise nor the
    hypothesis alone says anything about the label.
    """
    exclusive = rng.sample(world.EXCLUSIVE_KINDS, len(world.EXCLUSIVE_KINDS))
    common = [kind for kind in world.KINDS if kind not in exclusive]
    kinds = [*exclusive[: rng.choice((1, 2))], rng.choice(common)]
    rng.shuffle(kinds)
    facts = random_facts(rng, kinds)
    kind, name, value = rng.choice([fact for fact in facts if fact[0] in exclusive])
    if label == "Neither":
        kind = exclusive[-1]
        value = random_value(rng, kind)
    if label == "False":
        value = rng.choice([other for other in world.KINDS[kind].values if other != value])
    return premise_of(facts), state(kind, name, value, wording=3)


# ---- one row of each task ------------------------------------------------------------------------


def rte_row(rng: random.Random, label: str) -> Row:
    """Draws one row of `mini_rte`."""
    return templates.format_rte(*rte_pair(rng, label)), label


def cb_row(rng: random.Random, label: str) -> Row:
    """Draws one row of `mini_cb`."""
    return templates.format_cb(*cb_pair(rng, label)), label


def wic_contexts(rng: random.Random, same: bool) -> tuple[str, str, str]:
    """Draws two different contexts of a word, of the same sense or not; the word comes last."""
    word = rng.choice(list(world.SENSES))
    first, second = rng.sample(world.SENSES[word], 2)
    different = [rng.choice(first), rng.choice(second)]
    contexts = rng.sample(first, 2) if same else different
    names = rng.sample(world.NAMES, 2)
    one, other = (context.format(name=name) for context, name in zip(contexts, names, strict=True))
    return one, other, word


def wic_row(rng: random.Random, label: str) -> Row:
    """Draws one row of `mini_wic`: two different contexts, of the same sense if True."""
    return templates.format_wic(*wic_contexts(rng, label == "True")), label


def xsum_row(rng: random.Random) -> Row:
    """Draws one row of `mini_xsum`: who of two people went where, and what is their job."""
    name, other = rng.sample(world.NAMES, 2)
    job, other_job = rng.sample(world.JOBS, 2)
    city = rng.choice(world.CITIES)
    kind = rng.choice(("pet", "food", "colour", "object"))
    verb = rng.choice(("went", "flew", "drove", "moved"))
    sentences = [
        state("job", name, job),
        state("job", other, other_job),
        state(kind, other, random_value(rng, kind)),
    ]
    rng.shuffle(sentences)
    sentences.insert(rng.randrange(1, 4), f"{name} {verb} to {city}.")
    article = " ".join(sentences)
    return templates.format_summarization(article), f"{job} {name} goes to {city}"


def wikilingua_row(rng: random.Random) -> Row:
    """Draws one row of `mini_wikilingua`: the two steps of an instruction."""
    verbs = rng.sample(world.VERBS, 2)
    things = rng.sample(world.OBJECTS, 2)
    colour = rng.choice(world.COLOURS)
    first = rng.choice(("first you should {}.", "to begin, {}.", "you have to {} first."))
    then = rng.choice(("then you need to {}.", "after this, {}.", "you can {} later."))
    steps = [f"{verb} the {thing}" for verb, thing in zip(verbs, things, strict=True)]
    aside = rng.choice(("it is {}.", "the {} one is best.", "be careful with the {} part."))
    article = " ".join([first.format(steps[0]), aside.format(colour), then.format(steps[1])])
    return templates.format_summarization(article), " and ".join(steps)


def translation_row(rng: random.Random, language: str, words: Sequence[world.Word]) -> Row:
    """Words one or two words, joined by and/or, as a translation from English.

    Args:
      rng: draws the conjunction.
      language: the target language, a field of `mini_world.Word`: "de", "ro" or "fr".
      words: one word or two.
    """
    parts = list(words)
    if len(parts) == 2:
        parts.insert(1, rng.choice(world.CONJUNCTIONS))
    sentence = " ".join(part.en for part in parts)
    target = " ".join(getattr(part, language) for part in parts)
    inputs = templates.format_translation("English", world.LANGUAGE_NAMES[language], sentence)
    return inputs, target


# ---- splits --------------------------------------------------------------------------------------


def _drawn_splits(
    name: str,
    draw: Callable[..., Row],
    labels: Sequence[str] = (),
    sizes: dict[str, int] = SPLIT_SIZES,
) -> dict[str, list[Row]]:
    """Draws unique rows by `draw(rng[, label])`, the labels equally often in each split."""
    rng = seeded(name)
    arguments = itertools.cycle([(label,) for label in labels] or [()])
    seen: set[str] = set()
    splits = {}
    for split, size in sizes.items():
        rows = []
        for argument in itertools.islice(arguments, size):
            row = draw(rng, *argument)
            while row[0] in seen:
                row = draw(rng, *argument)
            seen.add(row[0])
            rows.append(row)
        rng.shuffle(rows)
        splits[split] = rows
    return splits


@functools.cache
def qa_wordings_dealt(name: str) -> dict[str, list[Row]]:
    """Deals each fact's four wordings to the splits: two to train, one each to the others.

    The whole train split is what pretraining may ask.
    """
    rng = seeded(name)
    splits: dict[str, list[Row]] = {split: [] for split in SPLIT_SIZES}
    for (given, asked), wordings in QA_WORDINGS[name].items():
        for country in world.COUNTRIES:
            dealt = rng.sample(wordings, len(wordings))
            for split, wording in zip(("train", *SPLIT_SIZES), dealt, strict=True):
                question = wording.format(getattr(country, given))
                splits[split].append((templates.format_qa(question), getattr(country, asked)))
    for rows in splits.values():
        rng.shuffle(rows)
    return splits


def _qa_splits(name: str) -> dict[str, list[Row]]:
    """Cuts the dealt questions to the common split sizes."""
    return {split: rows[: SPLIT_SIZES[split]] for split, rows in qa_wordings_dealt(name).items()}


@functools.cache
def word_pairs() -> dict[tuple[str, str], list[tuple[world.Word, world.Word]]]:
    """Deals unordered pairs of different words to (language, split).

    Each pair is dealt once, but French is asked for the held-out pairs of German: pretraining
    translated nearly all others into French.
    """
    rng = seeded("word_pairs")
    pairs = [tuple(rng.sample(pair, 2)) for pair in itertools.combinations(world.WORDS, 2)]
    rng.shuffle(pairs)
    dealt, start = {}, 0
    for language in ("de", "ro"):
        for split, size in SPLIT_SIZES.items():
            dealt[language, split] = pairs[start : start + size]
            start += size
    dealt["fr", "train"] = pairs[start : start + ENFR_SPLIT_SIZES["train"]]
    for split in ("validation", "test"):
        dealt["fr", split] = dealt["de", split]
    return dealt


def _translation_splits(name: str, language: str) -> dict[str, list[Row]]:
    """Words the pairs dealt to a language."""
    rng = seeded(name)
    return {
        split: [translation_row(rng, language, pair) for pair in word_pairs()[language, split]]
        for split in SPLIT_SIZES
    }


_SPLITS = {
    "rte": lambda: _drawn_splits("rte", rte_row, templates.RTE_LABELS, RTE_SPLIT_SIZES),
    "cb": lambda: _drawn_splits("cb", cb_row, templates.CB_LABELS),
    "wic": lambda: _drawn_splits("wic", wic_row, templates.WIC_LABELS),
    "triviaqa": lambda: _qa_splits("triviaqa"),
    "web_questions": lambda: _qa_splits("web_questions"),
    "wmt_ende": lambda: _translation_splits("wmt_ende", "de"),
    "wmt_enro": lambda: _translation_splits("wmt_enro", "ro"),
    "xsum": lambda: _drawn_splits("xsum", xsum_row),
    "wikilingua": lambda: _drawn_splits("wikilingua", wikilingua_row),
    "wmt_enfr": lambda: _translation_splits("wmt_enfr", "fr"),
}

# The tasks whose train rows the vocabulary was trained on. `wmt_enfr` is none of them: its rows
# would move the pieces under models that exist.
TASKS = tuple(name for name in _SPLITS if name != "wmt_enfr")


def split_sizes(name: str) -> dict[str, int]:
    """Returns the number of rows of each split of a task."""
    return {"rte": RTE_SPLIT_SIZES, "wmt_enfr": ENFR_SPLIT_SIZES}.get(name, SPLIT_SIZES)


@functools.cache
def zero_shot_splits(name: str) -> dict[str, list[Row]]:
    """Returns the rows of each split of a task of the small world.

    Args:
      name: one of `TASKS`, or "wmt_enfr".
    """
    return _SPLITS[name]()


@functools.cache
def one_shot_splits(name: str) -> dict[str, list[Row]]:
    """Returns the rows of each split, each behind one exemplar drawn from the train split.

    Exemplars depend on the row's position only, so they are the same in every run; a train row is
    never its own exemplar.
    """
    splits = zero_shot_splits(name)
    result = {}
    for split, rows in splits.items():
        rng = seeded(f"{name}/{split}/exemplars")
        result[split] = []
        for inputs, targets in rows:
            exemplar = rng.choice(splits["train"])
            while exemplar[0] == inputs:
                exemplar = rng.choice(splits["train"])
            result[split].append((templates.few_shot([exemplar], inputs), targets))
    return result


@functools.cache
def randomized_splits(name: str) -> dict[str, list[Row]]:
    """Returns the rows of each split with its targets shuffled among them (the paper's 3.3).

    Inputs and their order stay, and so does the number of each target: only what a target has to do
    with its input is gone.
    """
    result = {}
    for split, rows in zero_shot_splits(name).items():
        inputs, targets = zip(*rows, strict=True)
        shuffled = seeded(f"{name}/{split}/randomized").sample(targets, len(targets))
        result[split] = list(zip(inputs, shuffled, strict=True))
    return result


@functools.cache
def held_out(name: str, field: str) -> frozenset[str]:
    """Returns the "inputs" or "targets" of a task's validation and test rows."""
    splits = zero_shot_splits(name)
    column = ("inputs", "targets").index(field)
    return frozenset(row[column] for split in ("validation", "test") for row in splits[split])
