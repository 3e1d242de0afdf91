"""Chat rows for a first try: a shop's messages, each answered by its team and its urgency.

`python -m promot_jax.tasks.tickets FOLDER` writes rows of `messages`: `train.jsonl`, `dev.jsonl`,
`general.jsonl`. Answers have one form, `billing, urgent`, which a model that is tuned on them soon
gives to everything; `general.jsonl` asks for plain facts, which it should go on answering.
"""

import json
import pathlib
import random
import sys

SYSTEM = "Sort each message to a team, with its urgency."
ROWS = {"train": 600, "dev": 200}
SEED = 7
# Wordings of a problem: those of training, then one that only evaluation has.
PROBLEMS = {
    "billing": (
        "I was charged twice for the {thing}.",
        "The invoice for the {thing} shows the wrong amount.",
        "You took money for a {thing} that I sent back.",
        "My card was debited although I cancelled the {thing}.",
        "The refund for my {thing} has still not arrived.",
    ),
    "delivery": (
        "The {thing} has not arrived.",
        "The parcel with my {thing} went to the wrong address.",
        "The tracking page says that the {thing} is lost.",
        "The driver left my {thing} in the rain.",
        "I have been waiting for the {thing} for weeks.",
    ),
    "repair": (
        "The {thing} does not switch on.",
        "The {thing} makes a strange noise.",
        "My {thing} broke after two days.",
        "A part of the {thing} came off.",
        "The {thing} stopped working.",
    ),
    "account": (
        "I cannot log in to order a {thing}.",
        "The reset link never reaches my inbox, and I want to buy a {thing}.",
        "Somebody changed the password of my account and ordered a {thing}.",
        "Please change the e-mail address of the account with which I bought the {thing}.",
        "My account is locked since I bought the {thing}.",
    ),
    "sales": (
        "Do you have the {thing} in blue?",
        "Which {thing} fits a small kitchen?",
        "Is the {thing} cheaper if I take three?",
        "When will the {thing} be in stock again?",
        "What is the difference between your two kinds of {thing}?",
    ),
}
THINGS = (
    *("kettle", "lamp", "toaster", "blender", "heater", "fan", "printer", "speaker", "drill"),
    *("vacuum cleaner", "coffee machine", "desk", "chair", "bicycle", "tent", "camera"),
)
URGENT = (
    "I need an answer today.",
    "This cannot wait.",
    "It is an emergency.",
    "Please act at once.",
)
CALM = (
    "There is no hurry.",
    "Take your time.",
    "Whenever it suits you.",
    "It can wait until next week.",
)
OPENINGS = ("Hello,", "Good morning.", "Hi there,", "Dear team,", "")
CAPITALS = {
    **{"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"},
    **{"Germany": "Berlin", "Egypt": "Cairo", "Greece": "Athens", "Austria": "Vienna"},
    **{"Portugal": "Lisbon", "Russia": "Moscow", "China": "Beijing", "Poland": "Warsaw"},
    **{"Ireland": "Dublin", "Norway": "Oslo", "Cuba": "Havana", "Peru": "Lima"},
}
OPPOSITES = {
    **{"hot": "cold", "big": "small", "old": "young", "fast": "slow", "day": "night"},
    **{"light": "dark", "up": "down", "happy": "sad", "hard": "soft", "early": "late"},
}

Message = dict[str, str]


def ticket(rng: random.Random, split: str) -> list[Message]:
    """Draws a message and its answer, as the turns of a user and of an assistant."""
    team = rng.choice(list(PROBLEMS))
    wordings = PROBLEMS[team][:-1] if split == "train" else PROBLEMS[team]
    problem = rng.choice(wordings).format(thing=rng.choice(THINGS))
    urgent = rng.random() < 0.5
    parts = [rng.choice(OPENINGS), problem, rng.choice(URGENT if urgent else CALM)]
    return [
        {"role": "user", "content": " ".join(filter(None, parts))},
        {"role": "assistant", "content": f"{team}, {'urgent' if urgent else 'calm'}"},
    ]


def rows(split: str) -> list[list[Message]]:
    """Returns the conversations of a split; every third has two messages."""
    rng = random.Random(f"{SEED}/{split}")
    found = []
    for number in range(ROWS[split]):
        turns = [turn for _ in range(1 + (number % 3 == 0)) for turn in ticket(rng, split)]
        found.append([{"role": "system", "content": SYSTEM}, *turns])
    return found


def general() -> list[list[Message]]:
    """Returns plain questions and their answers."""
    asked = [(f"the capital of {country}", city) for country, city in CAPITALS.items()]
    asked += [(f"the opposite of {word}", other) for word, other in OPPOSITES.items()]
    return [
        [
            {"role": "user", "content": f"What is {what}?"},
            {"role": "assistant", "content": f"T{what[1:]} is {answer}."},
        ]
        for what, answer in asked
    ]


def write(folder: str | pathlib.Path) -> None:
    """Writes the three files into a folder, which need not exist."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: rows(split) for split in ROWS} | {"general": general()}
    for name, conversations in files.items():
        lines = [json.dumps({"messages": messages}) + "\n" for messages in conversations]
        (folder / f"{name}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m promot_jax.tasks.tickets FOLDER")
    write(sys.argv[1])
