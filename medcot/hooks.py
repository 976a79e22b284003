"""Augmentation hooks: functions that write a training row once more in another form. This is the file to add your own to.

A hook takes question, reasoning and answer, and gives the three back in another form, or None where it has nothing to say. It must
depend on nothing else: no clock, no network, no random number but one seeded by the text. `@hook` puts it into HOOKS under its
name, which is what `convert.augment` lists. What becomes of its rows is decided in medcot/augmentation.py, not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Texts = tuple[str, str, str]
Hook = Callable[[str, str, str], Texts | None]
HOOKS: dict[str, Hook] = {}

_HALF_WIDTH = str.maketrans("，；：？！", ",;:?!")
# Not beside a digit, a letter or a sign: `3，5` would become another number.
_BETWEEN_HAN = re.compile(r"(?<=[一-鿿])[，；：？！](?=[一-鿿]|\s|$)")


def hook(function: Hook) -> Hook:
    """Register a hook under its function's name: letters, digits and `_`."""
    HOOKS[function.__name__] = function
    return function


@hook
def question_punctuation(question: str, reasoning: str, answer: str) -> Texts | None:
    """The question as many people type it, with half-width punctuation between Chinese characters; reasoning and answer as they are."""
    typed = _BETWEEN_HAN.sub(lambda match: match[0].translate(_HALF_WIDTH), question)
    return (typed, reasoning, answer) if typed != question else None
