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
TARGETS = {
    "rte": ("RTE", "accuracy", ["True", "False"]),
    "en_fr": ("En–Fr", "bleu", []),
}
GROUPS = ("mlp", "query", "key", "value")
TARGET_SCORES = {"pretrained": 3.2, "fine_tuning": 94.6, "prompt_tuning": 52.1, "promot": 94.2}
SHARES = {"pretrained": 0.0, "fine_tuning": 16.3, "prompt_tuning": 0.0, "promot": 0.3}


def write_run(folder, seeds=(0, 1, 2), *, targets=("rte",), shots=(0,), probes=False, noise=7):
    """Writes a whole run with invented numbers and returns its folder.

    Args:
      folder: new folder.
      seeds: seeds of the run.
      targets: some of `TARGETS`.
      shots: numbers of shots; each unseen task is there once for each, none with ().
      probes: with the series of single unseen tasks and of gradients.
      noise: seed of the noise.
    """
    rng = random.Random(noise)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = unseen(shots)
    write_json(folder / "run.json", about(seeds, targets, tasks))
    (folder / "config.gin").write_text("PROMPT_LENGTH = 16\nMIXTURE = '<mini_rte> & co'\n")
    write_lines(folder / "results.jsonl", result_lines(rng, seeds, targets, tasks))
    write_lines(folder / "samples.jsonl", sample_lines(seeds, targets, shots))
    for seed in seeds:
        for stage, steps, size in (
            ("model", 500, 1_350_144),
            ("prompt", 100, 2_048),
            ("prompt-model", 500, 1_350_144),
        ):
            followed = tasks if probes else []
            path = folder / f"seed_{seed}" / stage
            write_stage(path, steps, size, rng, targets, followed)
    return folder


def unseen(shots):
    """Returns TASKS for each number of shots, with it in front; the name tells shots from none."""
    return [(k, f"{name}_{k}shot" if k else name, *rest) for k in shots for name, *rest in TASKS]


def about(seeds, targets=("rte",), tasks=None):
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
        "parameters": 1_350_144,
        "initial_checkpoint": "models/mini_base",
        "targets": [
            {
                "task": name,
                "label": TARGETS[name][0],
                "metric": TARGETS[name][1],
                "labels": TARGETS[name][2],
                "shots": 0,
            }
            for name in targets
        ],
        "tasks": [
            {
                "task": name,
                "label": label,
                "family": family,
                "metric": metric,
                "generative": free,
                "shots": k,
            }
            for k, name, label, family, metric, free, _ in (
                unseen((0,)) if tasks is None else tasks
            )
        ],
        "methods": [{"name": n, "label": label, "stages": s} for n, label, s in METHODS],
        "seeds": list(seeds),
    }


def result_lines(rng, seeds, targets, tasks):
    for method, _, stages in METHODS:
        column = {"fine_tuning": 1, "promot": 2}.get(method, 0)
        for seed in seeds if stages else [None]:
            noise = 1.5 if column else 0.0
            for name in targets:
                score = TARGET_SCORES[method] + (rng.gauss(0, 0.8) if stages else 0.0)
                yield result(method, seed, name, score, 100.0)
            for k, name, *_, free, means in tasks:
                share = max(0.0, SHARES[method] + rng.gauss(0, noise)) if free else 100.0
                score = means[column] + (2.5 if k == 4 else 0.0) + rng.gauss(0, noise)
                yield result(method, seed, name, score, share)


def result(method, seed, task, score, share):
    return {
        "method": method,
        "seed": seed,
        "task": task,
        "metric": "any",
        "score": round(score, 4),
        "count": 100,
        "label_share": round(share, 4),
        "prompt": None,
        "evaluated_as": task,
    }


def sample_lines(seeds, targets=("rte",), shots=(0,)):
    texts = {
        "rte": ("henry is a writer . question: henry works as a baker . Is it true or false ?"
                " answer:", "False", ("", "False", "True", "False")),
        "en_fr": ("Translate English to French: monday", "lundi",
                  ("monday", "lundi", "lundi", "lundi")),
        "trivia_qa": ("Q: what is the capital of peru ? A: lima\n\nQ: what is the capital of mali"
                      " ? A:", ["bamako"], ("bamako", "True", "bamako", "bamako")),
        "en_de": ("Translate English to German: <b>monday & peru</b>", "montag und peru",
                  ("montag und peru", "montag peru", "montag und peru", "montag oder peru")),
    }  # fmt: skip
    names = {target: texts[target] for target in targets}
    names |= {f"{t}_{k}shot" if k else t: texts[t] for k in shots for t in ("trivia_qa", "en_de")}
    for place, (method, _, stages) in enumerate(METHODS):
        for seed in seeds if stages else [None]:
            for task, (question, target, answers) in names.items():
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


def write_stage(folder, steps, size, rng, targets, followed):
    folder.mkdir(parents=True)
    stage = folder.name
    tuned, leak, learned = stage != "prompt", 16.0 * (stage == "model"), 44.0
    lines = []
    for step in range(0, steps + 1, 10):
        done = step / steps
        line = {"step": step}
        if step:
            line["train/loss"] = 0.66 * (1 - 0.9 * done * tuned) + rng.gauss(0, 0.02)
        if step % (steps // 10) == 0:
            for name in targets:
                score = 50 + learned * tuned * done**0.5 + rng.gauss(0, 1)
                line[f"validation/score/{name}"] = score
            line["validation/score"] = score
            line["validation/loss"] = 0.7 - 0.4 * done * tuned
        if step % (steps // 10) == 0 and tuned:
            line["unseen/label_share"] = max(0.0, leak * done**1.5 + rng.gauss(0, 0.8) * tuned)
            line["unseen/score"] = 77.0 - (30.0 if leak else 9.0) * tuned * done + rng.gauss(0, 1)
            for k, name, *_, means in followed:
                lost = (means[0] - means[1 if leak else 2]) * done
                line[f"unseen/score/{name}"] = means[0] - lost + k + rng.gauss(0, 2)
                line[f"unseen/label_share/{name}"] = line["unseen/label_share"] * 1.5
            if followed:
                drop = 0.7 if leak else 0.2
                cosines = {f"cosine/{g}": 0.9 - drop * done + rng.gauss(0, 0.03) for g in GROUPS}
                line |= cosines
        lines.append(line)
    write_lines(folder / "metrics.jsonl", lines)
    summary_ = {
        "name": stage.split("-")[-1],
        "mixture": "_and_".join(targets),
        "prompt": prompts(stage, targets),
        "steps": steps,
        "best_step": steps - 10 * rng.randrange(5),
        "trainable": {"leaves": 60, "parameters": size},
        "frozen": {"leaves": 1, "parameters": 1_352_192 - size},
        "seconds": 41.5,
        "lineage": stage.split("-"),
        "lora": None,
    }
    write_json(folder / "stage.json", summary_)


def prompts(stage, targets):
    if stage == "model":
        return None
    return targets[0] if len(targets) == 1 else {name: f"{name}_prompt" for name in targets}


def write_json(path, value):
    path.write_text(json.dumps(value))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_about(folder, **changes):
    """Replaces entries of run.json."""
    path = folder / "run.json"
    write_json(path, json.loads(path.read_text()) | changes)
