"""The error that a person sees, and what to take over from errors of libraries."""


class UserError(Exception):
    """Bad input: one line that names the culprit and the mend.

    The command line prints the message without a traceback and exits with code 2.
    """


def first_line(error: Exception) -> str:
    """Returns what an exception of a library says, short enough for a line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
