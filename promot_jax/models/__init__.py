"""Network + vocabulary → loss, scores and predictions of a batch; one model for each family.

All families consume the same batches, those of `data.py`. An encoder-decoder encodes the inputs and
decodes the targets; a decoder-only model reads them as one sequence.
"""

from promot_jax.models.base import HEAD, Batch, Model
from promot_jax.models.decoder_only import DecoderOnlyModel
from promot_jax.models.encoder_decoder import EncoderDecoderModel

__all__ = ["HEAD", "Batch", "DecoderOnlyModel", "EncoderDecoderModel", "Model"]
