"""Exercises that check themselves: a reader's answer is held against the truth, and told what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def differs(answer, expected, tolerance: float = 1e-4) -> str | None:
    """How `answer` differs from `expected`, in words; None if it does not."""
    if (
        isinstance(expected, bool | str | type(None))
        or isinstance(expected, list | tuple)
        and any(isinstance(x, str) for x in expected)
    ):
        return None if answer == expected else f"your answer {answer!r} is not the one"
    try:
        got, want = (
            np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, float) for x in (answer, expected)
        )
    except (TypeError, ValueError):
        return f"a {type(answer).__name__} came back where numbers were expected"
    if got.shape != want.shape:
        return f"the shape is {got.shape} instead of {want.shape}"
    off = np.abs(got - want)
    if got.size == 0 or off.max() <= tolerance * max(1.0, np.abs(want).max()):
        return None
    worst = np.unravel_index(off.argmax(), off.shape)
    where = f" at {tuple(map(int, worst))}" if off.ndim else ""
    return f"it is off by {off.max():.3g}{where} ({got[worst]:.4g}, expected {want[worst]:.4g})"


def check(
    name: str, answer, expected, cases: Sequence[tuple] = (), hint: str = "", tolerance: float = 1e-4
) -> bool | None:
    """Say whether an exercise is solved. Returns True, False, or None if there is no answer yet.

    answer: a value, or a function that is called with each tuple of `cases`; `...`, or a function that returns `...`,
    means "not answered yet". expected: the value, or the reference function for `cases`.
    """
    try:
        answers = [answer(*case) for case in cases] if isinstance(answer, Callable) and cases else [answer]
    except Exception as error:  # a reader's own code may raise anything: it is shown, not raised
        print(f"✗ {name}: your code raised {type(error).__name__}: {error}")
        return False
    if any(a is ... for a in answers):
        print(f"○ {name}: not answered yet. Replace the ... and run the cell again.")
        return None
    wanted = [expected(*case) for case in cases] if cases else [expected]
    for number, (a, b) in enumerate(zip(answers, wanted, strict=True), 1):
        if problem := differs(a, b, tolerance):
            case = f" in case {number} of {len(answers)}" if len(answers) > 1 else ""
            print(f"✗ {name}: not yet{case}: {problem}.{' Hint: ' + hint if hint else ''}")
            return False
    print(f"✓ {name}: right!")
    return True
