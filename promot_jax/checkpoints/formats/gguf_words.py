"""How the byte-level tokenizers of GGUF files cut a text into words, by `tokenizer.ggml.pre`.

The names, what each stands for and whether a start token is prepended are those of llama.cpp
(src/llama-vocab.cpp). Names that are missing here would be guesses: a wrong cut is a silently
worse model.
"""

import dataclasses

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGIT, _THREE_DIGITS = r"\p{N}", r"\p{N}{1,3}"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
)
_QWEN2 = _LLAMA3.replace(_THREE_DIGITS, _DIGIT)
# Words in which a capital begins a new one: "camelCase" is two.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(suffix: str, digits: str) -> str:
    letters = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{suffix}"
    capitals = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{suffix}"
    return rf"{letters}|{capitals}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*" + _SPACES


_TEKKEN = _cased("", _DIGIT)
_GPT4O = _cased(f"{_CONTRACTIONS}?", _THREE_DIGITS)
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES
)


@dataclasses.dataclass(frozen=True)
class Words:
    """How a text is cut before its words are assembled from merges.

    Attributes:
      patterns: regular expressions, each of which cuts the pieces that those before it left into
        matches and what is between them.
      nfc: texts are composed (Unicode NFC) first.
      whole: a word that is a token is not assembled from merges.
      add_bos: whether the start token is prepended where the file does not say.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    whole: bool = False
    add_bos: bool = False


_KINDS = {
    Words((_GPT2,)): (
        *("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"),
        *("gigachat", "a.x-4.0", "mellum"),
    ),
    Words((_DIGIT, _GPT2)): (
        *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        "mellum2",
    ),
    Words((_LLAMA3,), whole=True, add_bos=True): (
        *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0"),
        "lfm2",
    ),
    Words((_LLAMA3,)): ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
    Words((_QWEN2,), nfc=True): ("qwen2",),
    Words((_QWEN2,)): (
        *("deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"),
    ),
    Words((_TEKKEN,), whole=True, add_bos=True): ("tekken",),
    Words((_GPT4O,)): ("gpt-4o", "llama4", "kanana2", "minimax-m2"),
    Words((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")): ("falcon",),
    Words((_THREE_DIGITS, "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3)): (
        *("deepseek-v3", "hunyuan-dense", "joyai-llm"),
    ),
    Words((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT)): ("deepseek-coder",),
    # A file without the name is read like one of this name, which is what llama.cpp falls back to.
    Words((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")): ("default",),
}
KINDS = {name: words for words, names in _KINDS.items() for name in names}
