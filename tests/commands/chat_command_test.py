"""Chat from the command line: rows are previewed, trained on and evaluated; models answer turns."""

import json

import pytest
import torch
import transformers

import promot_jax
from promot_jax import cli
from tests.data import chat_tokenizers
from tests.data.chat_template_test import turns

COLOURS = ("red", "blue", "green")


def save_model(folder, kind="llama3", **settings):
    """A tiny Llama with a tokenizer and its chat template."""
    chat_tokenizers.save(folder, kind, **settings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=704,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=0.3)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return model, tokenizer


def write_rows(path, count, first=0):
    rows = []
    for number in range(first, first + count):
        colour = COLOURS[number % 3]
        talk = turns([f"a {number}", "yes", f"say {colour} {number}", colour])
        rows.append({"messages": talk} if number % 2 else {"conversations": sharegpt(talk)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sharegpt(talk):
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[m["role"]], "value": m["content"]} for m in talk]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMOT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def called(*words):
    return cli.main([str(word) for word in words])


@pytest.mark.long
def test_generate_answers_as_transformers(place, capsys):
    model, tokenizer = save_model(place / "base")
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "the cat?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    ids = ids["input_ids"]
    found = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    end = tokenizer.eos_token_id
    wanted = tokenizer.decode(found[: found.index(end)] if end in found else found)
    words = ["generate", "--checkpoint", "base", "--chat", "--max_length", 12, "the cat?"]
    assert called(*words, "--system", "Be short.") == 0
    assert capsys.readouterr().out == wanted + "\n"
    assert promot_jax.load("base").chat(asked, max_tokens=12) == wanted
    # The template goes where the model goes.
    assert called("import", "base", "imported") == 0
    assert called("export", "imported", "out", "--format", "huggingface") == 0
    assert promot_jax.load("imported").chat(asked, max_tokens=12) == wanted
    assert transformers.AutoTokenizer.from_pretrained("out").chat_template == (
        tokenizer.chat_template
    )


@pytest.mark.long
def test_an_answer_ends_where_the_template_ends_it(place):
    save_model(place / "base", "smollm2", eos_token="<|endoftext|>")
    model = promot_jax.load("base")
    end = model.model.vocabulary.encode("<|im_end|>")
    assert model.model.ends == tuple(model.model.vocabulary.encode("<|endoftext|>"))
    assert model.for_chat().model.ends[-1:] == tuple(end)


@pytest.mark.long
def test_a_model_without_template_says_what_to_give(place, capsys):
    save_model(place / "base", "smollm2", chat_template=None)
    words = ["generate", "--checkpoint", "base", "--max_length", 4, "hi"]
    assert called(*words, "--chat") == 2
    assert capsys.readouterr().err == (
        "promot: base has no chat template; give the text of one by --chat_template FILE\n"
    )
    assert called(*words, "--system", "a") == 2
    assert "--system goes with --chat" in capsys.readouterr().err
    (place / "own.jinja").write_text(chat_tokenizers.SMOLLM2)
    assert called(*words, "--chat", "--chat_template", "own.jinja") == 0
    write_rows(place / "train.jsonl", 6)
    own = ["run", "your_data", "--train", "train.jsonl", "--eval", "train.jsonl", "--preview"]
    own += ["--checkpoint", "base", "--metric", "exact_match"]
    assert called(*own) == 2
    assert "base has no chat template" in capsys.readouterr().err
    assert called(*own, "--chat_template", "own.jinja") == 0
    assert "⟦yes<|im_end|>⟧" in capsys.readouterr().out
    assert called(*own, "--chat_template", "own.jinja", "--chat_turns", "first") == 2
    assert "CHAT_TURNS (--chat_turns) 'first': use all or last" in capsys.readouterr().err
    (place / "train.jsonl").write_text('{"messages": [{"role": "usr", "content": "a"}]}\n' * 3)
    assert called(*own, "--chat_template", "own.jinja") == 2
    assert capsys.readouterr().err.startswith(
        f"promot: {place}/train.jsonl, line 1: messages[0].role is 'usr', which is none; did you "
    )


@pytest.mark.usefixtures("undrawn")
@pytest.mark.long
def test_a_run_tunes_on_chat(place, capsys):
    save_model(place / "base", "smollm2")
    write_rows(place / "train.jsonl", 24)
    write_rows(place / "dev.jsonl", 8, first=100)
    write_rows(place / "kept.jsonl", 4, first=200)
    words = ["run", "your_data", "--train", "train.jsonl", "--eval", "dev.jsonl"]
    words += ["--checkpoint", "base", "--metric", "exact_match", "--unseen", "kept.jsonl"]
    words += ["--methods", "pretrained,fine_tuning", "--gin.MODEL_DIR='out'"]
    words += ["--gin.TRAIN_STEPS=80", "--gin.BATCH_SIZE=8", "--gin.EVAL_PERIOD=80"]
    words += ["--gin.LEARNING_RATE=0.02", "--system", "Be short."]
    assert called(*words) == 0
    capsys.readouterr()
    scores = promot_jax.scores("out")
    kinds = {(s["method"], s["kind"]): s for s in scores}
    assert {label for label, _ in kinds} == {"pretrained", "fine_tuning"}
    assert {s["task_label"] for s in scores if s["kind"] == "unseen"} == {"kept"}
    assert kinds["fine_tuning", "target"]["score"] > kinds["pretrained", "target"]["score"]
    said = ["generate", "out", "--chat", "--system", "Be short.", "--max_length", 8, "a 3"]
    assert called(*said, "--method", "fine_tuning") == 0
    assert capsys.readouterr().out == "yes\n"
    assert called("export", "out", "tuned", "--format", "huggingface") == 0
    kept = transformers.AutoTokenizer.from_pretrained("tuned").chat_template
    assert kept == chat_tokenizers.SMOLLM2


@pytest.mark.slow
def test_a_template_of_ones_own_goes_where_the_model_goes(place, capsys):
    save_model(place / "base", "smollm2", chat_template=None, eos_token="<|endoftext|>")
    (place / "own.jinja").write_text(chat_tokenizers.SMOLLM2)
    write_rows(place / "train.jsonl", 6)
    words = ["run", "your_data", "--train", "train.jsonl", "--eval", "train.jsonl"]
    words += ["--checkpoint", "base", "--metric", "exact_match", "--chat_template", "own.jinja"]
    words += ["--methods", "fine_tuning", "--gin.MODEL_DIR='out'", "--gin.TRAIN_STEPS=2"]
    words += ["--unseen", "train.jsonl", "--gin.BATCH_SIZE=8", "--gin.EVAL_PERIOD=2"]
    assert called(*words) == 0
    assert called("generate", "out", "--chat", "--max_length", 4, "hi") == 0
    assert called("export", "out", "tuned", "--format", "huggingface") == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained("tuned")
    assert tokenizer.chat_template == chat_tokenizers.SMOLLM2
    ends = transformers.GenerationConfig.from_pretrained("tuned").eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends
