"""Whose traceback the host's log keeps; what it then shows is in tests/comfyui/refusals.py."""

import logging
from types import FunctionType

import pytest

from dinotile.flux_patch.families import plan_tiles
from dinotile.hosts.comfy.mistakes import is_news


def ours(function, module="dinotile.somewhere"):
    """The function as if that module had it."""
    return FunctionType(function.__code__, {"__name__": module, "__builtins__": __builtins__})


def of_a_raise():
    raise ValueError("got 3, allowed 1 or 2: choose one")


def chained():
    try:
        int("x")
    except ValueError as error:
        raise ValueError("no number") from error


def chained_to_a_fault():
    try:
        {}["x"]
    except KeyError as error:
        raise ValueError("no such file of ours") from error


def of_what_it_calls():
    return int("x")


def of_another_kind():
    raise RuntimeError("a fault")


def kept(action, message="Traceback (most recent call last):\n  File ..."):
    try:
        action()
    except Exception:
        return is_news(logging.LogRecord("root", logging.ERROR, "", 0, message, None, None))
    raise AssertionError("nothing was raised")


def test_only_what_the_pack_itself_raises_as_a_mistake_loses_its_traceback():
    assert not kept(lambda: plan_tiles(64, 64, tile=64, overlap=64))
    assert not kept(ours(of_a_raise)) and not kept(ours(chained))


@pytest.mark.parametrize(
    "fault", [ours(of_a_raise, "dinotiles"), ours(of_what_it_calls), ours(chained_to_a_fault), ours(of_another_kind)]
)
def test_a_fault_keeps_it(fault):
    assert kept(fault)


def test_the_sentence_stays():
    assert kept(ours(of_a_raise), "!!! Exception during processing !!! got 3")
