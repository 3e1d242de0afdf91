"""The search for objects in circles: it stands still while rows pass, and goes on after it."""

import gc

import pytest

from promot_jax.base import collector


@collector.paused()
def divided(one, other):
    with collector.paused():
        pass
    # The outer one still holds.
    assert not gc.isenabled()
    return one / other


def test_the_search_goes_on_after_an_error_too():
    assert gc.isenabled()
    assert divided(6, 3) == 2
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        divided(6, 0)
    assert gc.isenabled()


def test_a_search_that_was_off_stays_off():
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
