"""The order of training rows: which row stands at which place of an endless stream.

Of one task, an epoch holds every row once, and each epoch has an order of its own. Of a mixture,
every task is drawn as often as its rate says, as evenly as that can be. Any place can be asked for
at once: nothing before it is counted through, so that a stage resumes as fast as it starts.
"""

from collections.abc import Sequence

import numpy as np

# Rounds of the network; four are known to do for large domains, small ones take more.
ROUNDS = 8


class Order:
    """Places of the stream as rows of the tasks of a mixture."""

    def __init__(self, counts: Sequence[int], rates: Sequence[float], seed: int):
        """Remembers the mixture.

        Args:
          counts: rows of each task.
          rates: how often each is drawn, beside the others.
          seed: decides the order.
        """
        self._counts = counts
        self._rates = np.array(rates, float) / sum(rates)
        self._seed = seed

    def __call__(self, begin: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tasks [count] and the rows [count] of the places from `begin` on."""
        whose, drawn = self._drawn(begin, count)
        rows = np.empty(count, np.int64)
        for task, size in enumerate(self._counts):
            mine = np.flatnonzero(whose == task)
            epochs, places = np.divmod(drawn[mine], size)
            for epoch in np.unique(epochs).tolist():
                now = epochs == epoch
                rows[mine[now]] = shuffled(places[now], size, (self._seed, task, epoch))
        return whose, rows

    def _drawn(self, begin, count) -> tuple[np.ndarray, np.ndarray]:
        """Returns the task of each place, and how many places it had before.

        Draw k of a task with rate r is due at (k + 1/2) / r, and the draws of all tasks stand in
        the order of these times: before time t there are t of them, within half a place a task.
        """
        if len(self._rates) == 1:
            return np.zeros(count, int), np.arange(begin, begin + count)
        slack = len(self._rates) + 1
        first = np.maximum(np.floor((begin - slack) * self._rates), 0).astype(np.int64)
        last = np.ceil((begin + count + slack) * self._rates).astype(np.int64) + 1
        tasks = np.repeat(np.arange(len(first)), last - first)
        draws = np.concatenate([np.arange(*pair) for pair in zip(first, last, strict=True)])
        due = np.lexsort((tasks, (draws + 0.5) / self._rates[tasks]))
        chosen = due[begin - first.sum() :][:count]
        return tasks[chosen], draws[chosen]


def shuffled(places: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """Returns where a permutation of `size` numbers takes some of them, [n] -> [n].

    A Feistel network permutes 4^h >= size numbers; those that it takes outside go through it again
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
      places: numbers below `size`.
      size: of the permutation.
      key: decides the permutation.
    """
    half = np.uint64(((max(size, 2) - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << int(half)) - 1)
    # Numpy keeps what a SeedSequence gives; the numbers of its generators may change.
    keys = np.random.SeedSequence([part % 2**32 for part in key]).generate_state(ROUNDS, np.uint64)
    found = np.array(places, np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        left, right = found[outside] >> half, found[outside] & low
        for one in keys:
            left, right = right, left ^ (_mixed(right ^ one) & low)
        found[outside] = left << half | right
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scrambles 64 bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
