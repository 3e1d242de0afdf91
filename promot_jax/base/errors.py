"""The error that a person sees, and what to take over from errors of libraries."""


class UserError(Exception):
    """Bad input: one line that names the culprit and the mend.

    The command line prints the message without a traceback and exits with its code.
    """

    code = 2


def first_line(error: Exception) -> str:
    """Returns what an exception of a library says, short enough for a line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def explained(error: BaseException) -> tuple[str, int] | None:
    """Returns the line for a person and the exit code, None for a fault of the program."""
    if isinstance(error, UserError):
        # gin adds lines about where it was when it called what failed.
        return str(error).splitlines()[0], error.code
    if isinstance(error, OSError):
        return f"{error.filename or 'file system'}: {error.strerror}", 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command continues the run", 130
    return None


def cause(error: Exception) -> str:
    """Returns why something could not be written."""
    # TensorStore raises a ValueError for a full disk, too.
    return "the disk is full" if "No space left" in str(error) else first_line(error)
