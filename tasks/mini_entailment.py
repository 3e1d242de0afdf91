"""The second mixture of the small world's pretraining: what follows from what.

It teaches the meaning of `mini_rte`, `mini_cb` and `mini_wic` in other words and with other
answers, beside what the first mixture teaches, so that fine-tuning meets a target whose meaning is
known and whose format is new. As in the first, no "true or false" question occurs, and True or
False as answers only as two of the arbitrary labels of `mini_pretrain.label_episode`.
"""

import functools
import random

from promot_jax.tasks import mini_pretrain, mini_rows, templates
from promot_jax.tasks import mini_world as world
from promot_jax.tasks.mini_rows import Row

SPLIT_SIZES = {"train": 300_000, "validation": 2_000}
# Rows that ask for the meaning of `mini_rte` alone.
ENTAILMENT_SIZES = {"validation": 200, "test": 200}

# The meaning of RTE without its format: a question and the answers for what follows from the
# premise and for what does not.
ENTAILMENT_FORMS = (
    ("{premise} also: {hypothesis} same or different?", "same", "different"),
    ("{premise} does it mean that {hypothesis} answer:", "yes", "no"),
    ("Q: {premise} is it so that {hypothesis} A:", "plus", "minus"),
    ("read: {premise} then: {hypothesis} good or bad?", "good", "bad"),
)
# That of CB: the answers for what follows, what contradicts and what is left open.
THREE_WAY_FORMS = (
    ("{premise} does it mean that {hypothesis} yes, no or maybe? answer:", "yes", "no", "maybe"),
    ("read: {premise} then: {hypothesis} up, down or left?", "up", "down", "left"),
)
# That of WiC: the answers for the same sense and for another.
SENSE_FORMS = (
    ("{} {} does {} mean the same? answer:", "yes", "no"),
    ("Q: {} {} {} same or different? A:", "same", "different"),
)
_PAIR_FORMATS = ("{} question: {} answer:", "Q: {} {} A:", "{} so: {} answer:")


def _follows_or_not(rng: random.Random, follows: bool) -> tuple[str, str]:
    """Draws a premise of one to three facts and a hypothesis that rewords one of them, or does not.

    One that does not tells a fact of a kind that the premise does not hold, as in `mini_rte`.
    """

    def draw():
        kinds = rng.sample(list(world.KINDS), rng.choice((1, 2, 2, 3)) + 1)
        facts = mini_rows.random_facts(rng, kinds[1:])
        kind, name, value = rng.choice(facts)
        if not follows:
            kind = kinds[0]
            value = mini_rows.random_value(rng, kind)
        wording = rng.choice((1, 2, 3))
        return mini_rows.premise_of(facts), mini_rows.state(kind, name, value, wording)

    return mini_pretrain.pair_to_learn(draw)


def question(rng: random.Random) -> Row:
    """Asks what RTE asks in other words and with other answers."""
    return _questions(rng, rng.choice(ENTAILMENT_FORMS), most=0)


def entailment(rng: random.Random) -> Row:
    """Asks a `question`, seldom behind an exemplar in the same words."""
    form = rng.choice(ENTAILMENT_FORMS)
    (most,) = rng.choices((0, 1), (26, 4))
    return _questions(rng, form, most)


def _questions(rng: random.Random, form: tuple[str, str, str], most: int) -> Row:
    words, *answers = form

    def draw():
        follows = rng.random() < 0.5
        premise, hypothesis = _follows_or_not(rng, follows)
        return words.format(premise=premise, hypothesis=hypothesis), answers[0 if follows else 1]

    return mini_pretrain.in_context(rng, draw, most)


def three_way_entailment(rng: random.Random) -> Row:
    """Asks what CB asks in other words and with other answers, behind no exemplar or one."""
    form, *answers = rng.choice(THREE_WAY_FORMS)

    def draw():
        label = rng.choice(templates.CB_LABELS)
        premise, hypothesis = mini_pretrain.pair_to_learn(lambda: mini_rows.cb_pair(rng, label))
        answer = answers[templates.CB_LABELS.index(label)]
        return form.format(premise=premise, hypothesis=hypothesis), answer

    return mini_pretrain.in_context(rng, draw, most=1)


def entailment_episode(rng: random.Random) -> Row:
    """Asks what RTE asks with two labels that one exemplar each defines; never RTE's own."""
    form = rng.choice(_PAIR_FORMATS)
    labels = rng.sample(
        [label for label in mini_pretrain.LABELS if label not in templates.CB_LABELS], 2
    )

    def draw(place):
        return form.format(*_follows_or_not(rng, place == 0)), labels[place]

    exemplars = [draw(place) for place in rng.sample((0, 1), 2)]
    inputs, target = draw(rng.randrange(2))
    return templates.few_shot(exemplars, inputs), target


def word_sense(rng: random.Random) -> Row:
    """Asks what WiC asks in other words and with other answers, behind no exemplar or one."""
    form, *answers = rng.choice(SENSE_FORMS)

    def draw():
        same = rng.random() < 0.5
        *sentences, word = mini_rows.wic_contexts(rng, same)
        return form.format(*sentences, word), answers[0 if same else 1]

    return mini_pretrain.in_context(rng, draw, most=1)


# Shares of the mixture, in per cent.
MIXTURE = {
    entailment: 30,
    three_way_entailment: 8,
    entailment_episode: 6,
    word_sense: 4,
    mini_pretrain.question_answering: 14,
    mini_pretrain.translation: 14,
    mini_pretrain.summarization: 12,
    mini_pretrain.reading: 5,
    mini_pretrain.word_list: 1,
    mini_pretrain.category: 1,
    mini_pretrain.label_episode: 3,
    mini_pretrain.span_denoising: 2,
}


@functools.cache
def rows(split: str) -> list[Row]:
    """Returns the mixture's rows of a split, in random order.

    A train row may occur more than once; no validation row is a train row.
    """
    rng = mini_rows.seeded(f"entailment mixture/{split}")
    trained = () if split == "train" else rows("train")
    return mini_pretrain.rows_apart(
        lambda: mini_pretrain.mixed_row(rng, MIXTURE), SPLIT_SIZES[split], trained
    )


@functools.cache
def entailment_rows(split: str) -> list[Row]:
    """Returns `question` rows that are no train rows, for each split."""
    rng = mini_rows.seeded(f"entailment/{split}")
    return mini_pretrain.rows_apart(lambda: question(rng), ENTAILMENT_SIZES[split], rows("train"))
