"""Python's search for objects in circles, which costs more the more modules there are."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Stops the search while many rows pass, which hold no circles; as `with` or decorator.

    It would look through all objects of the program after each few thousands of rows.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
