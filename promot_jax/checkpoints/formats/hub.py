"""`hf://OWNER/NAME[@REVISION][/SUBFOLDER]`: folders of the Hugging Face hub, downloaded once."""

import functools
import pathlib
import re
import urllib.parse

from promot_jax.base.errors import UserError

_ADDRESS = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<sub>.+?))?/*")
# Configuration, tokenizer and weights, but no pickles and no second copy of the weights.
_FILES = (
    "*.json",
    "*.model",
    "*.jinja",
    "merges.txt",
    "model.safetensors",
    "model-*.safetensors",
    "adapter_model.safetensors",
)
_NOT_BELOW = ("json", "model", "safetensors", "txt")


def local_folder(path: str) -> pathlib.Path:
    """Returns the local folder of a path: the path itself, or the download of an `hf://` one.

    A revision with slashes is written with `%2F`, as in `hf://owner/name@refs%2Fpr%2F1`.

    Raises:
      UserError: an `hf://` path that cannot be parsed or downloaded.
    """
    return _download(path) if path.startswith("hf://") else pathlib.Path(path)


@functools.cache
def _download(path: str) -> pathlib.Path:
    address = _ADDRESS.fullmatch(path)
    if address is None:
        raise UserError(
            f"{path}: expected hf://OWNER/NAME, hf://OWNER/NAME@REVISION or with /FOLDER"
        )
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"{path} needs a package: pip install huggingface_hub") from None
    prefix = f"{address['sub']}/" if address["sub"] else ""
    revision = address["revision"] and urllib.parse.unquote(address["revision"])
    try:
        folder = huggingface_hub.snapshot_download(
            address["repo"],
            revision=revision,
            allow_patterns=[prefix + pattern for pattern in _FILES],
            # A star matches slashes too; of folders below only chat templates are wanted.
            ignore_patterns=[f"{prefix}*/*.{kind}" for kind in _NOT_BELOW],
        )
    except errors.GatedRepoError:
        raise UserError(
            f"{path} is gated: accept its terms on huggingface.co, then run `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{path}: the hub has no such repository, or you may not see it") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{path}: the repository has no revision {revision}") from None
    # What a lost connection raises depends on the HTTP library beneath.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be downloaded: {reason}") from None
    return pathlib.Path(folder, address["sub"] or "")
