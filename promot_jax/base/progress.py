"""What a person sees while long work runs: a bar on a terminal, plain lines elsewhere."""

import sys
import time

import tqdm

SECONDS_BETWEEN_LINES = 10.0

_quiet = False


def be_quiet() -> None:
    """Shows nothing from now on: another process of the same run speaks."""
    global _quiet
    _quiet = True


def say(line: str) -> None:
    """Prints one line of plain progress, above any bar."""
    if not _quiet:
        tqdm.tqdm.write(line)
        sys.stdout.flush()


class Progress:
    """Progress of work with a known number of steps, with rate and time left.

    On a terminal it is a tqdm bar. Elsewhere it prints a line at most every
    `SECONDS_BETWEEN_LINES`, and one at the end.
    """

    def __init__(self, label: str, total: int, done: int = 0):
        self._label, self._total, self._done, self._first = label, total, done, done
        self._started = self._printed = time.monotonic()
        self._note = ""
        self._bar = None
        if sys.stderr.isatty() and not _quiet:
            self._bar = tqdm.tqdm(
                total=total, initial=done, desc=label, unit=" steps", dynamic_ncols=True, leave=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._first:
            self._print(time.monotonic())

    def advance(self, steps: int = 1) -> None:
        """Counts one step, or several."""
        self._done += steps
        if self._bar is not None:
            self._bar.update(steps)
        elif (now := time.monotonic()) - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = now
            self._print(now)

    def skip(self, steps: int) -> None:
        """Counts steps that were done before; with nothing but these, no line is printed."""
        self._first += steps
        self._done += steps
        if self._bar is not None:
            self._bar.update(steps)

    def note(self, text: str) -> None:
        """Shows the newest figures, such as `loss 0.31`, behind the bar or in the next line."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def _print(self, now: float) -> None:
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        ending = f"{left // 60:.0f}:{left % 60:02.0f} left" if self._done < self._total else "done"
        say(
            f"{self._label}: step {self._done}/{self._total}  {rate:.1f} steps/s  {ending}"
            + (f"  {self._note}" if self._note else "")
        )
