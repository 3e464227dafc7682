"""The quiz that closes a notebook: ten questions, checked on the spot; wrong answers say where to read again.

The questions of notebook 03 stand in `quizzes/03.json`, and can be read there. Without a kernel, on a page or
the site, the questions are a list whose answers unfold.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets

QUIZZES = Path(__file__).with_name("quizzes")
LETTERS = "ABCD"
STYLE = """<style>
.ip2p-quiz .widget-radio-box { margin: 0; width: 100%; }
.ip2p-quiz .widget-radio-box label { height: auto; line-height: 1.4; margin: 3px 0; width: auto; }
.ip2p-quiz .widget-radio-box label { align-items: flex-start; display: flex; white-space: normal; }
.ip2p-quiz .widget-radio-box input { flex: none; margin: 2px 8px 0 4px; order: -1; }
.ip2p-quiz .widget-html-content { line-height: 1.45; white-space: normal; }
.ip2p-quiz :focus-visible { outline: 3px solid #0b57d0; outline-offset: 2px; }
</style>"""


@dataclass(frozen=True)
class Option:
    """One answer to choose from."""

    text: str
    why: str  # what is right, or wrong, about it
    reread: str = ""  # the section to read again; empty for the right one

    @property
    def is_right(self) -> bool:
        return not self.reread

    @property
    def feedback(self) -> str:
        """What a reader is told who has chosen it."""
        if self.is_right:
            return f"✓ Right. {self.why}"
        return f"✗ Not this one. {self.why} Read again: “{self.reread}”."


@dataclass(frozen=True)
class Question:
    """A question with three or four options, one of them right."""

    id: str
    text: str
    options: tuple[Option, ...]

    @property
    def right(self) -> int:
        """The place of the right option, from 0."""
        return [option.is_right for option in self.options].index(True)


def load_quiz(notebook: str) -> list[Question]:
    """The questions of a notebook, by its number, `03` or `01b`. Raises ValueError if it has none."""
    path = QUIZZES / f"{notebook}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in QUIZZES.glob("*.json")))
        raise ValueError(f"there is no quiz for notebook {notebook!r}; there are {known}")
    questions = []
    for entry in json.loads(path.read_text(encoding="utf-8")):
        options = tuple(Option(**option) for option in entry["options"])
        questions.append(Question(entry["id"], entry["question"], options))
    return questions


def marked_up(text: str) -> str:
    """Text as HTML: what stands between backticks is code, between asterisks stressed."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def plain(text: str) -> str:
    """Text without these signs."""
    return re.sub("[`*]", "", text)


class Ask(widgets.VBox):
    """One question: options to choose from, a button to check them, and what is said to the choice.

    tries: how often it was checked. solved: whether the choice that was checked last is right.
    """

    def __init__(self, number: int, question: Question):
        self.question = question
        self.tries = 0
        self.solved = False
        self.heading = widgets.HTML(f"<p><b>{number}.</b> {marked_up(question.text)}</p>")
        self.choice = widgets.RadioButtons(
            options=[(plain(option.text), k) for k, option in enumerate(question.options)],
            value=None,
            layout=widgets.Layout(width="100%"),
        )
        self.button = widgets.Button(description="Check", tooltip=f"check question {number}")
        self.button.on_click(self.check)
        self.answer = widgets.HTML('<p role="status"></p>')
        super().__init__([self.heading, self.choice, self.button, self.answer])

    def check(self, _=None) -> None:
        """Say whether the choice is right, and if not, where to read again."""
        if self.choice.value is None:
            self.say("Choose an answer first.")
            return
        option = self.question.options[self.choice.value]
        self.tries += 1
        self.solved = option.is_right
        self.say(option.feedback)

    def say(self, words: str) -> None:
        self.answer.value = f'<p role="status">{marked_up(words)}</p>'


class Quiz(widgets.VBox):
    """The quiz of a notebook, by its number: `Quiz("03")` as the last line of a cell.

    Everything can be reached with Tab, and chosen or pressed with the space bar.
    """

    def __init__(self, notebook: str):
        self.questions = load_quiz(notebook)
        self.asked = [Ask(k, question) for k, question in enumerate(self.questions, 1)]
        self.score = widgets.HTML()
        for ask in self.asked:
            ask.button.on_click(self.count)
        self.count()
        super().__init__([widgets.HTML(STYLE), *self.asked, self.score])
        self.add_class("ip2p-quiz")

    def count(self, _=None) -> None:
        """Write the score: how many questions are solved, and how many of them at the first try."""
        solved = [ask for ask in self.asked if ask.solved]
        at_once = sum(ask.tries == 1 for ask in solved)
        words = f"{len(solved)} of {len(self.asked)} right, {at_once} at the first try."
        self.score.value = f'<p role="status"><b>Score:</b> {words}</p>'

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the list."""
        return super()._repr_mimebundle_(**kwargs) | {"text/html": as_list(self.questions)}


def as_list(questions: list[Question]) -> str:
    """The questions as HTML that needs no kernel; their answers unfold."""
    items = []
    for question in questions:
        options = []
        for letter, option in zip(LETTERS, question.options, strict=False):
            options.append(f"<li>{letter}. {marked_up(option.text)}</li>")
        right = question.options[question.right]
        answer = f"<b>{LETTERS[question.right]}.</b> {marked_up(right.why)}"
        items.append(
            f'<li><p>{marked_up(question.text)}</p><ul style="list-style: none">{"".join(options)}</ul>'
            f"<details><summary>Answer</summary><p>{answer}</p></details></li>"
        )
    return f"<ol>{''.join(items)}</ol>"
