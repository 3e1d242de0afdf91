"""Bad input as one line in programs that print a traceback for every error, such as T5X's."""

import re
import sys
from types import TracebackType

from promot_jax.base import errors


def explain_bad_input() -> None:
    """Makes this process print an uncaught `UserError`, or a macro without value, as one line.

    Other errors are printed as before, and the exit code stays Python's.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None):
        line = explained(error)
        if line is None:
            before(kind, error, traceback)
        else:
            print(f"error: {line}", file=sys.stderr)

    sys.excepthook = hook


def explained(error: BaseException) -> str | None:
    """Returns the line for a person, None for an error that is no fault of theirs."""
    if isinstance(error, errors.UserError):
        return errors.explained(error)[0]
    # gin's words for `%gin.REQUIRED`.
    if found := re.match(r"(\w+)/macro.value set to `%gin.REQUIRED`", str(error)):
        return f"{found[1]} has no value; give --gin.{found[1]}=VALUE"
    return None
