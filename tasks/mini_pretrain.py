"""The first pretraining mixture of the small world.

It teaches facts, words, reading and the habit of following exemplars, so that fine-tuning has
something to forget. What it never contains: the "true or false" templates, and True or False as an
answer, except as two of the arbitrary labels whose meaning an episode's exemplars define.
"""

import functools
import random
from collections.abc import Callable, Collection, Mapping

from promot_jax.tasks import mini_rows, templates
from promot_jax.tasks import mini_world as world
from promot_jax.tasks.mini_rows import Row

SPLIT_SIZES = {"train": 300_000, "validation": 2_000}

# Arbitrary labels of the in-context episodes.
LABELS = (
    *("True", "False", "Neither", "yes", "no", "maybe", "good", "bad", "left", "right"),
    *("up", "down", "alpha", "beta", "gamma", "one", "two", "three", "hot", "cold"),
    *("north", "south", "sun", "moon", "plus", "minus", "A", "B", "C", "D"),
)
_EPISODE_FORMATS = ("question: {} answer:", "Q: {} A:", "{} is", "{} means")
_SPAN_LENGTHS = (1, 1, 2, 2, 3)


def _shots(rng: random.Random, most: int = 3) -> int:
    """Draws the number of exemplars: one most often, as in the evaluation."""
    return min(most, rng.choices((0, 1, 2, 3), (30, 40, 20, 10))[0])


def in_context(rng: random.Random, draw: Callable[[], Row], most: int = 3) -> Row:
    """Puts up to `most` rows of the same task in front of a row."""
    inputs, targets = draw()
    exemplars = [row for row in (draw() for _ in range(_shots(rng, most))) if row[0] != inputs]
    return templates.few_shot(exemplars, inputs), targets


def question_answering(rng: random.Random) -> Row:
    """Asks for facts about countries, in the wordings dealt to training."""
    rows = mini_rows.qa_wordings_dealt(rng.choice(list(mini_rows.QA_WORDINGS)))["train"]
    return in_context(rng, lambda: rng.choice(rows))


@functools.cache
def _held_out_pairs() -> frozenset[frozenset[str]]:
    """Returns the word pairs of the translation tasks' validation and test rows."""
    return frozenset(
        frozenset(word.en for word in pair)
        for (_, split), pairs in mini_rows.word_pairs().items()
        if split != "train"
        for pair in pairs
    )


def _words_to_translate(rng: random.Random) -> list[world.Word]:
    """Draws one word or a pair that is not held out."""
    words = rng.sample(world.WORDS, rng.choice((1, 2, 2)))
    while frozenset(word.en for word in words) in _held_out_pairs():
        words = rng.sample(world.WORDS, len(words))
    return words


def translation(rng: random.Random) -> Row:
    """Translates words and word pairs from English to German, Romanian or French."""
    language = rng.choice(list(world.LANGUAGE_NAMES))
    return in_context(
        rng, lambda: mini_rows.translation_row(rng, language, _words_to_translate(rng))
    )


def _unseen_row(rng: random.Random, name: str, draw: Callable[[random.Random], Row]) -> Row:
    """Draws a summarization row whose summary is not held out."""
    row = draw(rng)
    while row[1] in mini_rows.held_out(name, "targets"):
        row = draw(rng)
    return row


def summarization(rng: random.Random) -> Row:
    """Summarizes stories (XSum's) or instructions (WikiLingua's)."""
    name, draw = rng.choice(
        (("xsum", mini_rows.xsum_row), ("wikilingua", mini_rows.wikilingua_row))
    )
    return in_context(rng, lambda: _unseen_row(rng, name, draw), most=2)


def reading(rng: random.Random) -> Row:
    """Asks for one fact of a premise."""
    facts = mini_rows.random_facts(rng, rng.sample(list(world.KINDS), rng.choice((2, 3))))
    kind, name, value = rng.choice(facts)
    question = world.KINDS[kind].question.format(name=name)
    return f"{mini_rows.premise_of(facts)} question: {question} answer:", value


def _paraphrase_or_not(rng: random.Random, label: str) -> tuple[str, str]:
    """Draws a premise of one to three facts and a sentence that says one of them, or does not."""
    facts = mini_rows.random_facts(rng, rng.sample(list(world.KINDS), rng.choice((1, 2, 3))))
    kind, name, value = rng.choice(facts)
    if label == "different":
        change = rng.choice(("kind", "kind", "name", "value"))
        if change == "kind":
            kind = rng.choice([k for k in world.KINDS if k not in {fact[0] for fact in facts}])
            value = mini_rows.random_value(rng, kind)
        elif change == "name":
            name = rng.choice([other for other in world.NAMES if other != name])
        else:
            value = rng.choice([other for other in world.KINDS[kind].values if other != value])
    sentence = mini_rows.state(kind, name, value, wording=rng.choice((1, 2, 3)))
    return mini_rows.premise_of(facts), sentence


def pair_to_learn(draw: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Draws a premise and a hypothesis that `mini_rte` and `mini_cb` do not hold out."""
    while True:
        pair = draw()
        if templates.format_rte(*pair) not in mini_rows.held_out(
            "rte", "inputs"
        ) and templates.format_cb(*pair) not in mini_rows.held_out("cb", "inputs"):
            return pair


def same_or_different(rng: random.Random) -> Row:
    """Asks whether a sentence says the same as one of the premise's, in words of its own.

    Where it does not, it tells of another kind of fact or changes the person or the value. Pairs
    held out by `mini_rte` and `mini_cb` are drawn anew.
    """
    label = rng.choice(("same", "different"))
    premise, sentence = pair_to_learn(lambda: _paraphrase_or_not(rng, label))
    return f"{premise} also: {sentence} same or different?", label


def word_list(rng: random.Random) -> Row:
    """Repeats, picks from or swaps a short list of words."""
    words = [rng.choice(world.CATEGORIES[rng.choice(list(world.CATEGORIES))]) for _ in range(3)]
    task = rng.choice(("repeat", "first", "last", "swap"))
    if task == "swap":
        words.pop()
    target = {
        "repeat": words,
        "first": words[:1],
        "last": words[-1:],
        "swap": words[::-1],
    }[task]
    return f"{task}: {' '.join(words)}", " ".join(target)


def category(rng: random.Random) -> Row:
    """Asks for the category of a word."""
    name = rng.choice(list(world.CATEGORIES))
    word = rng.choice(world.CATEGORIES[name])
    return f"question: what kind of word is {word}? answer:", name


def _member(rng: random.Random, group: str) -> str:
    """Draws a word of a category or a statement of a kind."""
    if group in world.CATEGORIES:
        return rng.choice(world.CATEGORIES[group])
    return mini_rows.state(
        group, rng.choice(world.NAMES), mini_rows.random_value(rng, group), rng.choice((0, 1, 2))
    )


def label_episode(rng: random.Random) -> Row:
    """Maps two groups of words or statements to two labels that only the exemplars define.

    Each group has at least one exemplar. True and False are labels like any other here and mean
    whatever the episode makes them mean.
    """
    groups = rng.sample(list(rng.choice((world.CATEGORIES, world.KINDS))), 2)
    label_of = dict(zip(groups, rng.sample(LABELS, 2), strict=True))
    form = rng.choice(_EPISODE_FORMATS)
    shown = [*groups, *rng.choices(groups, k=rng.choice((0, 1, 2)))]
    rng.shuffle(shown)
    exemplars = [(form.format(_member(rng, group)), label_of[group]) for group in shown]
    asked = rng.choice(groups)
    return templates.few_shot(exemplars, form.format(_member(rng, asked))), label_of[asked]


def _plain_text(rng: random.Random) -> str:
    """Draws sentences without a task: facts in any wording, contexts of ambiguous words."""
    sentences = []
    for _ in range(rng.choice((2, 3))):
        name = rng.choice(world.NAMES)
        if rng.random() < 0.25:
            senses = rng.choice(list(world.SENSES.values()))
            sentences.append(rng.choice(rng.choice(senses)).format(name=name))
        else:
            kind = rng.choice(list(world.KINDS))
            value = mini_rows.random_value(rng, kind)
            sentences.append(mini_rows.state(kind, name, value, rng.randrange(4)))
    return " ".join(sentences)


def span_denoising(rng: random.Random) -> Row:
    """Replaces two or three spans of a text by sentinels; the target restores them (T5)."""
    words = _plain_text(rng).split()
    inputs: list[str] = []
    targets: list[str] = []
    spans = rng.choice((2, 3))
    stretch = len(words) // spans
    for sentinel in range(spans):
        begin = sentinel * stretch
        end = begin + stretch if sentinel < spans - 1 else len(words)
        length = rng.choice(_SPAN_LENGTHS)
        # At least one word in front of a span keeps neighbouring spans apart.
        start = rng.randrange(begin + 1, max(begin + 2, end - length + 1))
        inputs += [*words[begin:start], f"<extra_id_{sentinel}>", *words[start + length : end]]
        targets += [f"<extra_id_{sentinel}>", *words[start : min(start + length, end)]]
    return " ".join(inputs), " ".join([*targets, f"<extra_id_{spans}>"])


# Shares of the mixture, in per cent.
MIXTURE = {
    question_answering: 20,
    translation: 20,
    summarization: 17,
    reading: 7,
    same_or_different: 8,
    word_list: 3,
    category: 2,
    label_episode: 15,
    span_denoising: 8,
}


def mixed_row(rng: random.Random, mixture: Mapping[Callable[[random.Random], Row], int]) -> Row:
    """Draws a task by its share of a mixture, then a row of it."""
    (draw,) = rng.choices(list(mixture), list(mixture.values()))
    return draw(rng)


def rows_apart(draw: Callable[[], Row], size: int, trained: Collection[Row]) -> list[Row]:
    """Draws `size` rows that are none of the `trained` ones; one may occur more than once."""
    trained = set(trained)
    drawn: list[Row] = []
    while len(drawn) < size:
        row = draw()
        if row not in trained:
            drawn.append(row)
    return drawn


@functools.cache
def rows(split: str) -> list[Row]:
    """Returns the mixture's rows of a split, in random order.

    A train row may occur more than once; no validation row is a train row.
    """
    rng = mini_rows.seeded(f"pretrain/{split}")
    trained = () if split == "train" else rows("train")
    return rows_apart(lambda: mixed_row(rng, MIXTURE), SPLIT_SIZES[split], trained)
