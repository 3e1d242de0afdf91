"""Tiny models of `transformers` with all that surrounds the weights, and what of it survives.

`python -m tests.checkpoints.round_trip` prints a table: families down, items across.
"""

import json
import pathlib
import sys
import tempfile

import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from promot_jax import cli
from tests.checkpoints.tiny_transformers import CASES

ROWS = 400
CORPUS = [
    "the cat is on the box, the dog is red, blue or green; question: is it a colour? answer: yes",
    "La géographie: 12 345 villes, l'été, des œufs; die Straße, ein Fuß",
    "def f(x):\n\treturn x ** 2  # the end",
    "Привет, мир! Это тест. 你好，世界。日本語のテキスト。",
] * 8
WORDS = ["the cat", "L'été 2024", "Straße", "Привет", "你好，世界", "日本語", "مرحبا", "🙂🚀"]
WORDS += ["x  y", "a\nb\tc"]
AROUND = [("", ""), (" ", ""), ("", "  "), ("\n", "\n"), ("is it ", "? <|im_end|> yes")]
TEXTS = [f"{before}{word}{after}" for word in WORDS for before, after in AROUND]
CHAT = "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
GENERATION = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}


def _byte_level(start: bool, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    """Of Qwen's and, with a start token, of Llama 3's kind; with an added word behind."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in specials])
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, normalized=False)])
    if start:
        number = tokenizer.token_to_id("<|im_start|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", number)]
        )
    return tokenizer


def sentencepiece_model(file: pathlib.Path, *, llama: bool) -> pathlib.Path:
    """Trains a `tokenizer.model` of Llama's kind, or a `spiece.model` of T5's."""
    kinds = {
        True: {"model_type": "bpe", "byte_fallback": True, "unk_id": 0, "bos_id": 1, "eos_id": 2}
        | {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        False: {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(file.with_suffix("")),
        vocab_size=360 if llama else 90,
        hard_vocab_limit=False,
        minloglevel=2,
        **kinds[llama],
    )
    file.with_suffix(".vocab").unlink()
    return file.with_suffix(".model").rename(file)


def _save_tokenizer(folder: pathlib.Path, case: str) -> dict:
    """Writes a tokenizer; returns the token ids for the model's configuration."""
    if case in ("t5_v1_0", "t5_v1_1", "mt5"):
        sentencepiece_model(folder / "spiece.model", llama=False)
        settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "model_max_length": 512}
        settings |= {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
    if case == "llama":
        sentencepiece_model(folder / "tokenizer.model", llama=True)
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
        settings |= {"add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>"}
        settings |= {"unk_token": "<unk>", "pad_token": "</s>", "model_max_length": 2048}
        settings["chat_template"] = CHAT
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>"}))
        return {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    tokenizer = _byte_level(case in ("llama_3", "cohere"))
    if case == "mistral":
        spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence(spaces)
        trainer = trainers.BpeTrainer(
            special_tokens=[
                "<unk>",
                "<|endoftext|>",
                "<|im_end|>",
                *(f"<0x{i:02X}>" for i in range(256)),
            ],
            vocab_size=340,
            show_progress=False,
        )
        tokenizer.train_from_iterator(CORPUS, trainer)
        strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*strip, decoders.Strip(" ", 1, 0)])
    templates = {"default": CHAT, "tool_use": "tools: " + CHAT} if case == "qwen3" else CHAT
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        padding_side="left",
        chat_template=templates,
    ).save_pretrained(folder)
    ends = [tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
    several = case in ("llama_3", "qwen3")
    return {"eos_token_id": ends if several else ends[0], "pad_token_id": ends[1]}


def make(folder: pathlib.Path, case: str, dtype=torch.bfloat16) -> pathlib.Path:
    """Writes a model of a case of `tiny_transformers` with a tokenizer and settings."""
    folder.mkdir()
    kind, settings = CASES[case]
    ids = _save_tokenizer(folder, case)
    longest = {} if kind in ("t5", "mt5") else {"max_position_embeddings": 1234}
    settings = settings | ids | longest | {"initializer_range": 0.03}
    config = transformers.AutoConfig.for_model(kind, vocab_size=ROWS, **settings)
    factory, _ = classes(kind)
    torch.manual_seed(0)
    model = factory.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=0.3)
    model.generation_config.update(**ids, **GENERATION)
    model.to(dtype).save_pretrained(folder)
    return folder


def classes(kind: str):
    """Returns what loads a model of a kind, and whether it is an encoder-decoder."""
    seq2seq = kind in ("t5", "mt5")
    loader = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    return loader, seq2seq


def survives(before: pathlib.Path, after: pathlib.Path) -> dict[str, bool]:
    """Returns {item: whether it is after as it was before}."""
    seen = [_seen(before), _seen(after)]
    return {item: seen[0][item] == seen[1][item] for item in seen[0]}


FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def _seen(folder: pathlib.Path) -> dict:
    """What transformers make of a folder, and what is in its files."""
    seen = {}
    for name in FILES:
        text = (folder / name).read_text() if (folder / name).exists() else "{}"
        content = {"text": text} if name.endswith(".jinja") else json.loads(text)
        # A T5.1.1 whose matrices were tied has two of them now.
        aside = ("transformers_version", "tie_word_embeddings")
        seen[name] = {key: value for key, value in content.items() if key not in aside}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    seen["ids"] = [tokenizer(text).input_ids for text in TEXTS]
    seen["ids, bare"] = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    conversation = tokenizer.chat_template and tokenizer.apply_chat_template(
        MESSAGES, tokenize=False
    )
    seen["chat"] = conversation, tokenizer.chat_template, tokenizer.model_max_length
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model, told = classes(kind)[0].from_pretrained(folder, output_loading_info=True)
    seen["rows, dtype"] = model.get_input_embeddings().weight.shape[0], model.dtype
    seen["loads whole"] = [sorted(told[name]) for name in ("missing_keys", "unexpected_keys")]
    batch = tokenizer(["the cat is", "is it a colour?"], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    answers = model.float().generate(**batch, do_sample=False, max_new_tokens=12)
    seen["generate"] = answers.tolist()
    return seen


def through(folder: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    """Returns the export of the import of a folder."""
    assert cli.main(["import", str(folder), str(scratch / "ours")]) == 0
    exported = scratch / "exported"
    command = ["export", str(scratch / "ours"), str(exported), "--format", "huggingface"]
    assert cli.main(command) == 0
    return exported


FAMILIES = ("t5_v1_0", "t5_v1_1", "mt5", "llama", "llama_3", "mistral", "qwen2", "qwen3", "cohere")


def main() -> None:
    """Prints the table."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for number, family in enumerate(FAMILIES):
        scratch = pathlib.Path(tempfile.mkdtemp())
        kept = survives(made := make(scratch / "theirs", family), through(made, scratch))
        if number == 0:
            print("| family |", " | ".join(kept), "|", file=sys.stderr)
        cells = ["yes" if same else "no" for same in kept.values()]
        print("|", family, "|", " | ".join(cells), "|", file=sys.stderr)


if __name__ == "__main__":
    main()
