"""Writes a synthetic run folder with invented numbers, as input of the report's tests."""

import json
import random

TASKS = [
    ("cb", "CB", "NLI", "accuracy", False, (25.0, 31.0, 29.0)),
    ("wic", "WiC", "Word sense", "accuracy", False, (22.0, 41.0, 38.0)),
    ("trivia_qa", "TriviaQA", "Closed-book QA", "exact_match", True, (90.0, 61.0, 84.0)),
    ("web_questions", "web_questions", "Closed-book QA", "exact_match", True, (80.0, 42.0, 71.0)),
    ("en_de", "En–De", "Translation", "bleu", True, (95.0, 70.0, 90.0)),
    ("en_ro", "En–Ro", "Translation", "bleu", True, (95.0, 66.0, 89.0)),
    ("xsum", "XSum", "Summarization", "rouge2", True, (61.0, 33.0, 52.0)),
    ("wiki_lingua", "WikiLingua", "Summarization", "rouge2", True, (57.0, 26.0, 50.0)),
]
METHODS = [
    ("pretrained", "Pretrained", []),
    ("fine_tuning", "Standard fine-tuning", ["model"]),
    ("prompt_tuning", "Prompt tuning", ["prompt"]),
    ("promot", "ProMoT", ["prompt", "prompt-model"]),
]
TARGET_SCORES = {"pretrained": 3.2, "fine_tuning": 94.6, "prompt_tuning": 52.1, "promot": 94.2}
SHARES = {"pretrained": 0.0, "fine_tuning": 16.3, "prompt_tuning": 0.0, "promot": 0.3}


def write_run(folder, seeds=(0, 1, 2)):
    """Writes a whole run with invented numbers and returns its folder."""
    rng = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", about(seeds))
    (folder / "config.gin").write_text("PROMPT_LENGTH = 16\nMIXTURE = '<mini_rte> & co'\n")
    write_lines(folder / "results.jsonl", result_lines(rng, seeds))
    write_lines(folder / "samples.jsonl", sample_lines(seeds))
    for seed in seeds:
        for stage, steps, size in (
            ("model", 500, 1_350_144),
            ("prompt", 100, 2_048),
            ("prompt-model", 500, 1_350_144),
        ):
            write_stage(folder / f"seed_{seed}" / stage, stage, steps, size, rng)
    return folder


def about(seeds):
    return {
        "experiment": "mini",
        "command": "promot run mini",
        "started": "2026-03-01T10:15:00+00:00",
        "finished": "2026-03-01T10:20:01+00:00",
        "seconds": 301.2,
        "peak_memory_gib": 2.1,
        "machine": {
            "cores": 2,
            "devices": "1 x cpu",
            "system": "Linux x86_64",
            "python": "3.11.7",
            "jax": "0.10.2",
        },
        "target": {
            "task": "rte",
            "label": "RTE",
            "metric": "accuracy",
            "labels": ["True", "False"],
        },
        "tasks": [
            {"task": t, "label": label, "family": family, "metric": metric, "generative": free}
            for t, label, family, metric, free, _ in TASKS
        ],
        "methods": [{"name": n, "label": label, "stages": s} for n, label, s in METHODS],
        "seeds": list(seeds),
    }


def result_lines(rng, seeds):
    for method, _, stages in METHODS:
        column = {"fine_tuning": 1, "promot": 2}.get(method, 0)
        for seed in seeds if stages else [None]:
            noise = 1.5 if column else 0.0
            target = TARGET_SCORES[method] + (rng.gauss(0, 0.8) if stages else 0.0)
            yield result(method, seed, "rte", target, 100.0)
            for task, *_, free, means in TASKS:
                share = max(0.0, SHARES[method] + rng.gauss(0, noise)) if free else 100.0
                yield result(method, seed, task, means[column] + rng.gauss(0, noise), share)


def result(method, seed, task, score, share):
    return {
        "method": method,
        "seed": seed,
        "task": task,
        "metric": "any",
        "score": round(score, 4),
        "count": 100,
        "label_share": round(share, 4),
    }


def sample_lines(seeds):
    texts = {
        "rte": ("henry is a writer . question: henry works as a baker . Is it true or false ?"
                " answer:", "False", ("", "False", "True", "False")),
        "trivia_qa": ("Q: what is the capital of peru ? A: lima\n\nQ: what is the capital of mali"
                      " ? A:", ["bamako"], ("bamako", "True", "bamako", "bamako")),
        "en_de": ("Translate English to German: <b>monday & peru</b>", "montag und peru",
                  ("montag und peru", "montag peru", "montag und peru", "montag oder peru")),
    }  # fmt: skip
    for place, (method, _, stages) in enumerate(METHODS):
        for seed in seeds if stages else [None]:
            for task, (question, target, answers) in texts.items():
                for index in (0, 5, 9):
                    yield {
                        "method": method,
                        "seed": seed,
                        "task": task,
                        "index": index,
                        "input": question,
                        "target": target,
                        "prediction": answers[place],
                    }


def write_stage(folder, stage, steps, size, rng):
    folder.mkdir(parents=True)
    tuned, leak, learned = stage != "prompt", 16.0 * (stage == "model"), 44.0
    lines = []
    for step in range(0, steps + 1, 10):
        done = step / steps
        line = {"step": step}
        if step:
            line["train/loss"] = 0.66 * (1 - 0.9 * done * tuned) + rng.gauss(0, 0.02)
        if step % (steps // 10) == 0:
            line["validation/score"] = 50 + learned * tuned * done**0.5 + rng.gauss(0, 1)
            line["validation/loss"] = 0.7 - 0.4 * done * tuned
        if step % (steps // 10) == 0 and tuned:
            line["unseen/label_share"] = max(0.0, leak * done**1.5 + rng.gauss(0, 0.8) * tuned)
            line["unseen/score"] = 77.0 - (30.0 if leak else 9.0) * tuned * done + rng.gauss(0, 1)
        lines.append(line)
    write_lines(folder / "metrics.jsonl", lines)
    summary_ = {
        "name": stage.split("-")[-1],
        "steps": steps,
        "best_step": steps - 10 * rng.randrange(5),
        "trainable": {"leaves": 60, "parameters": size},
        "frozen": {"leaves": 1, "parameters": 1_352_192 - size},
        "seconds": 41.5,
        "lineage": stage.split("-"),
    }
    write_json(folder / "stage.json", summary_)


def write_json(path, value):
    path.write_text(json.dumps(value))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_about(folder, **changes):
    """Replaces entries of run.json."""
    path = folder / "run.json"
    write_json(path, json.loads(path.read_text()) | changes)
