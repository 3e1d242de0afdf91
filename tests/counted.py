"""A contender of the benchmarks that imports next to nothing."""

from benchmarks.workers import Subject


def counted(start):
    """Counts its runs from `start`; ten at a time are too many."""
    counts = [start]

    def run(count):
        print("this is not a reply")
        if count == 10:
            raise ValueError("10 is too many")
        counts[0] += count
        return {"count": counts[0]}

    return Subject(run, lambda: {"end": counts[0]})
