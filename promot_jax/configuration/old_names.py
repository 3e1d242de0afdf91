"""Where gin files of earlier versions say a module lies, and where it lies now.

Runs keep their configuration for good, and people keep their own gin files.
"""

import re

# What followed `from promot_jax`, and what does now.
MODULES = {
    "import attached": ".models import attached",
    "import data": ".data import batching",
    "import decoding": ".models import decoding",
    "import evaluation": ".experiment import evaluation",
    "import experiment": ".experiment import experiment",
    "import optimizers": ".training import optimizers",
    "import pretrained": ".checkpoints import pretrained",
    "import stages": ".training import stages",
    "import vocabularies": ".data import vocabularies",
    ".networks import": ".models.networks import",
    ".probes import": ".experiment.probes import",
}
_IMPORT = re.compile(
    r"^(\s*from promot_jax) ?(" + "|".join(map(re.escape, MODULES)) + r")\b", re.MULTILINE
)
# The one module that has another name now.
_BATCHES = re.compile(r"\bdata\.(?=(Fixed|Token)Batches\b)")
# Recipes that can do more now.
_OPTIMIZERS = re.compile(r"\boptimizers\.(model|prompt)_adafactor\b")
# What it defined is in `methods/single_task.gin`, which every file that included it includes.
_BASELINES = re.compile(r"^include +['\"]methods/baselines\.gin['\"]", re.MULTILINE)
# seqio's vocabulary, where nothing else of seqio is used; ours is the same without TensorFlow.
_SEQIO = re.compile(r"^import seqio *$", re.MULTILINE)
_SENTENCEPIECE = re.compile(r"\bseqio\.(SentencePieceVocabulary)\b")


def translated(text: str) -> str:
    """Returns the text of a gin file, or a flag, with the names of today."""
    text = _IMPORT.sub(lambda found: found[1] + MODULES[found[2]], text)
    text = _BASELINES.sub("", text)
    text = _SENTENCEPIECE.sub(r"vocabularies.\1", text)
    if "seqio." not in text:
        text = _SEQIO.sub("from promot_jax.data import vocabularies", text)
    text = _OPTIMIZERS.sub(r"optimizers.\1_optimizer", text)
    return _BATCHES.sub("batching.", text)
