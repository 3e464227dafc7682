"""Exercises that check themselves: a reader's answer is held against the truth, and told what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def check(
    name: str, answer, expected, cases: Sequence[tuple] = (), hint: str = "", tolerance: float = 1e-4
) -> bool | None:
    """Say whether an exercise is solved. Returns True, False, or None if there is no answer yet.

    answer: a value, or a function that is called with each tuple of `cases`; `...`, or a function that
    returns `...`, means "not answered yet". expected: the value, or the reference function for `cases`.
    """
    try:
        answers = called(answer, cases)
    except Exception as error:  # a reader's own code may raise anything: it is shown, not raised
        print(f"✗ {name}: your code raised {type(error).__name__}: {error}")
        return False
    if any(given is ... for given in answers):
        print(f"○ {name}: not answered yet. Replace the ... and run the cell again.")
        return None
    for number, (given, wanted) in enumerate(zip(answers, called(expected, cases), strict=True), 1):
        problem = differs(given, wanted, tolerance)
        if problem is not None:
            case = f" in case {number} of {len(answers)}" if len(answers) > 1 else ""
            advice = f" Hint: {hint}" if hint else ""
            print(f"✗ {name}: not yet{case}: {problem}.{advice}")
            return False
    print(f"✓ {name}: right!")
    return True


def called(answer, cases: Sequence[tuple]) -> list:
    """A function's values for all cases; a value as it is."""
    if cases and isinstance(answer, Callable):
        return [answer(*case) for case in cases]
    return [answer]


def differs(answer, expected, tolerance: float = 1e-4) -> str | None:
    """How `answer` differs from `expected`, in words; None if it does not."""
    if not is_numeric(expected):
        return None if answer == expected else f"your answer {answer!r} is not the one"
    try:
        got = as_numbers(answer)
        want = as_numbers(expected)
    except (TypeError, ValueError):
        return f"a {type(answer).__name__} came back where numbers were expected"
    if got.shape != want.shape:
        return f"the shape is {got.shape} instead of {want.shape}"
    off = np.abs(got - want)
    if off.size == 0 or off.max() <= tolerance * max(1.0, np.abs(want).max()):
        return None
    worst = np.unravel_index(off.argmax(), off.shape)
    where = f" at {tuple(map(int, worst))}" if off.ndim else ""
    return f"it is off by {off.max():.3g}{where} ({got[worst]:.4g}, expected {want[worst]:.4g})"


def is_numeric(value) -> bool:
    """Neither a truth value nor a text, nor a list that holds texts."""
    if isinstance(value, list | tuple):
        return not any(isinstance(entry, str) for entry in value)
    return not isinstance(value, bool | str | None)


def as_numbers(value) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value, float)
