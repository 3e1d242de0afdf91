"""The error that a person sees."""


class UserError(Exception):
    """Bad input: one line that names the culprit and the mend.

    The command line prints the message without a traceback and exits with code 2.
    """
