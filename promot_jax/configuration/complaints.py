"""What gin dislikes, as one line that names the culprit and the nearest known name."""

import contextlib
import difflib
import inspect
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator

from promot_jax.base.errors import UserError

# What gin raises when it cannot read something.
GIN_ERRORS = (
    OSError,
    SyntaxError,
    tokenize.TokenError,
    ValueError,
    TypeError,
    ImportError,
    AttributeError,
    NameError,
)


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns whatever gin dislikes in a file or flag into a UserError."""
    try:
        yield
    except GIN_ERRORS as error:
        raise UserError(f"{where}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Returns gin's complaint as one line, with the nearest known name."""
    from gin import config

    # What follows are places in gin's own words, such as lines of joined flags.
    text = re.sub(r" *\(?(In file|In bindings|In call to) .*$", "", " ".join(str(error).split()))
    if "Failed to parse token" in text or isinstance(error, SyntaxError | tokenize.TokenError):
        line = (getattr(error, "text", None) or "").strip()
        place = f" near {line!r}" if line else ""
        return f"""not a Python literal{place}; quote texts twice, as in --gin.NAME="'text'\""""
    if "macro() missing 1 required positional argument" in text:
        from promot_jax.configuration import bindings

        return f"needs {', '.join(bindings.unset())}; give each by --gin.NAME=VALUE"
    selectors = {selector for _, selector in config._CONFIG}
    if found := re.search(r"Configurable '(.+)' doesn't have a parameter named '(.+)'", text):
        called, name = found.groups()
        full = next((s for s in selectors if f".{s}".endswith(f".{called}")), "")
        module, _, attribute = full.rpartition(".")
        takes = getattr(sys.modules.get(module), attribute, None)
        names = inspect.signature(takes).parameters if takes else ()
        return f"{called} has no parameter {name}{nearest(name, names)}"
    if found := re.search(r"<module '(.+)' from .+> has no attribute (\w+)", text):
        module, name = found.groups()
        return f"{module} has no {name}{nearest(name, dir(sys.modules[module]))}"
    known = {selector.split(".", 1)[-1] for selector in selectors}
    quoted = re.findall(r"['`]([\w./]+)['`]", text)
    return text + next((hint for name in quoted if (hint := nearest(name, known - {name}))), "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a question for the name that was meant, or nothing."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
