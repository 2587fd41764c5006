"""What libraries and the system raise, in words for the user."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager

# What a library raises on a model whose config or tensors are not what it expects.
BROKEN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")  # in torch's words


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python says that memory ended; of the CPU and of MPS, torch says it in a plain RuntimeError."""
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in NO_MEMORY)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def reason(error: BaseException) -> str:
    """Why, in a few words: what the system says about a file, else the error's own message on one line."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    number = re.search(r"(?:os error |Os \{ code: )(\d{1,4})\b", said)  # the system's, as safetensors passes it on
    return os.strerror(int(number[1])) if number else printable(said, most=200)


def printable(value: object, *, most: int = 60) -> str:
    """What a file says, as a part of a sentence: printable and short."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    out = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: most + 1])
    return out if len(out) <= most else f"{out[:most]}..."


def plain(said: object, most: int = 500) -> str:
    """What somebody else said, printable and on one line."""
    return printable(" ".join(str(said)[: 8 * most].split()), most=most)


def kind_of(value: object) -> str:
    """What somebody gave in the place of something else: None, or of what class it is."""
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__name__}".replace("builtins.", "")


@contextmanager
def whole(name: str, kind: str) -> Iterator[None]:
    """Turn what names and shapes of tensors raise that nobody foresaw into one ValueError, of a file of this name."""
    try:
        yield
    except Exception as error:  # transformers checks a configuration by errors of its own kind
        said = (
            f"it lacks {printable(str(error))}"
            if isinstance(error, KeyError)
            else f"{type(error).__name__}: {reason(error)}"
        )
        raise ValueError(f"{name} does not hold a whole {kind} ({said}): download it again") from error
