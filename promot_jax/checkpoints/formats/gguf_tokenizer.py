"""The tokenizer inside a GGUF file as the text of a `tokenizer.json`.

Two kinds (`tokenizer.ggml.model`): `gpt2`, byte-level BPE, and `llama`, a SentencePiece model whose
merges follow from the scores of its pieces.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from promot_jax.base.errors import UserError
from promot_jax.checkpoints.formats.gguf_words import KINDS

# Values of tokenizer.ggml.token_type. Control and user-defined tokens are whole tokens in a text,
# whatever surrounds them; no text uses the unused ones.
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
SPACE = "▁"
# Of SentencePiece where a file does not say: bos, eos, unknown.
_SPM_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}


def description(metadata: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """Returns the tokenizer as `vocabularies.load` takes it.

    Args:
      metadata: {key: value} of the file; `tokenizer.ggml.` keys count.
      path: of the file, for errors.

    Returns:
      None where the file has no tokenizer; `{"unread": why}` where it has one of a kind that is not
      read.

    Raises:
      UserError: the parts of the tokenizer do not fit together.
    """
    ggml = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    if reason := _unread(ggml):
        return {"unread": reason}
    if ggml.get("model", "none") == "none":
        return None
    try:
        if ggml["model"] == "llama":
            ggml = _SPM_IDS | ggml
        tokens, eos = ggml["tokens"], ggml.get("eos_token_id")
        build = _sentencepiece if ggml["model"] == "llama" else _byte_level
        return {
            "kind": "tokenizers",
            "json": build(ggml).to_str(),
            "eos_token": None if eos is None else tokens[eos],
        }
    except KeyError as error:
        raise UserError(f"{path}: its tokenizer lacks tokenizer.ggml.{error.args[0]}") from None
    except Exception as error:  # the library raises nothing more specific
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: its tokenizer is inconsistent: {reason}") from None


def _unread(ggml: Mapping[str, Any]) -> str | None:
    model, cut = ggml.get("model", "none"), ggml.get("pre", "default")
    if model not in ("none", "gpt2", "llama"):
        return f"its tokenizer is of kind {model} (tokenizer.ggml.model); read are gpt2 and llama"
    if model == "gpt2" and cut not in KINDS:
        return (
            f"its tokenizer cuts words as {cut} does (tokenizer.ggml.pre), which is not known; "
            f"read are {', '.join(sorted(KINDS))}"
        )
    return None


def _types(ggml: Mapping[str, Any]) -> Sequence[int]:
    """Returns the type of each token; old files do not tell."""
    if "token_type" in ggml:
        return ggml["token_type"]
    control = {ggml.get("bos_token_id"), ggml.get("eos_token_id")}
    return [CONTROL if i in control else NORMAL for i in range(len(ggml["tokens"]))]


def _byte_level(ggml: Mapping[str, Any]) -> tokenizers.Tokenizer:
    words = KINDS[ggml.get("pre", "default")]
    merges = [tuple(merge.split(" ", 1)) for merge in ggml["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(_vocab(ggml), merges, ignore_merges=words.whole))
    if words.nfc:
        tokenizer.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in words.patterns]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, level])
    tokenizer.decoder = decoders.ByteLevel()
    return _with_special(tokenizer, ggml, words.add_bos)


def _sentencepiece(ggml: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Returns what a SentencePiece model of type BPE with byte fallback computes."""
    vocab = _vocab(ggml)
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab,
            _merges(ggml),
            unk_token=ggml["tokens"][ggml["unknown_token_id"]],
            fuse_unk=True,
            byte_fallback=any(re.fullmatch("<0x[0-9A-F]{2}>", token) for token in vocab),
        )
    )
    prefix = ggml.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", SPACE)
    first = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*first, spaces])
    undo = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        undo.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(undo)
    return _with_special(tokenizer, ggml, add_bos=True)


def _merges(ggml: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns every way to put two pieces together that gives a third, the best piece first."""
    if "merges" in ggml:
        return [tuple(merge.split(" ", 1)) for merge in ggml["merges"]]
    pieces = {
        token: score
        for token, score, sort in zip(ggml["tokens"], ggml["scores"], _types(ggml), strict=True)
        if sort in (NORMAL, USER_DEFINED)
    }
    found = []
    for token, score in pieces.items():
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        found += [(-score, pair) for pair in halves if pair[0] in pieces and pair[1] in pieces]
    return [pair for _, pair in sorted(found, key=lambda item: item[0])]


def _vocab(ggml: Mapping[str, Any]) -> dict[str, int]:
    return {
        token: i
        for i, (token, sort) in enumerate(zip(ggml["tokens"], _types(ggml), strict=True))
        if sort != UNUSED
    }


def _with_special(
    tokenizer: tokenizers.Tokenizer, ggml: Mapping[str, Any], add_bos: bool
) -> tokenizers.Tokenizer:
    """Adds the tokens that stand for themselves in a text, and the one before every text."""
    tokens = ggml["tokens"]
    for special, sort in ((True, CONTROL), (False, USER_DEFINED)):
        chosen = [t for t, found in zip(tokens, _types(ggml), strict=True) if found == sort]
        tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in chosen])
    if ggml.get("add_bos_token", add_bos):
        number = ggml["bos_token_id"]
        start = tokens[number]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[start, "$A"], special_tokens=[(start, number)]
        )
    return tokenizer
