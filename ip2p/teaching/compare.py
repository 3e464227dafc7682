"""Which of two edits is better? A person answers by a click or a key, and every answer is kept."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anywidget
import ipywidgets as widgets
import traitlets
from PIL import Image

from ip2p.common.grids import grid
from ip2p.common.images import fit
from ip2p.dataset.comparisons import Comparisons
from ip2p.editing import Editor
from ip2p.teaching.access import Access
from ip2p.teaching.explorer import base64_of, button, enlarged, figure_png, png, sentence

PAUSE = (
    0.3  # seconds in which nobody can judge a pair: a click that comes sooner was meant for the one before
)


class Question(NamedTuple):
    """Two edits of one picture by one sentence; captions, where there are any."""

    image: Image.Image
    instruction: str
    left: Image.Image
    right: Image.Image
    before: str = ""
    after: str = ""


class TwoEdits:
    """Questions that are painted when they are asked. Question k is about image and instruction k, by turns,
    edited with the seeds 2k and 2k + 1. options: of `Editor.many`."""

    def __init__(
        self, editor: Editor, images: Sequence, instructions: Sequence[str], rounds: int = 1, **options
    ):
        self.editor, self.images, self.instructions = editor, images, instructions
        self.options = options
        self.n = rounds * len(images)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, k: int) -> Question:
        image = self.images[k % len(self.images)]
        instruction = self.instructions[k % len(self.images)]
        seeds = [2 * k, 2 * k + 1]
        left, right = self.editor.many([image] * 2, [instruction] * 2, seeds=seeds, **self.options)
        return Question(image, instruction, left, right)


class Keys(anywidget.AnyWidget):
    """Hands over the keys that are pressed in the box of class ip2p-explorer around it: pressed is [key, how
    many so far]. Other keys than `known`, and those with Ctrl, Alt or Meta, stay the browser's."""

    known = traitlets.List(traitlets.Unicode()).tag(sync=True)
    pressed = traitlets.List().tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)
    _esm = """
    function render({ model, el }) {
        el.innerHTML = `<div class="ip2p-keys" tabindex="0" role="note"></div>`;
        el.firstChild.textContent = model.get("words");
        let count = 0;
        function press(event) {
            if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
            if (!model.get("known").includes(event.key)) return;
            event.preventDefault();
            event.stopPropagation();
            count += 1;
            model.set("pressed", [event.key, count]);
            model.save_changes();
        }
        let box = null;
        function begin() {
            box = el.closest(".ip2p-explorer");
            if (!box) return requestAnimationFrame(begin);
            box.addEventListener("keydown", press);
        }
        begin();
        return () => box?.removeEventListener("keydown", press);
    }
    export default { render };
    """
    _css = ".ip2p-keys { cursor: pointer; padding: 2px 4px; }"


class EditComparison(widgets.VBox):
    """Shows an input picture, a sentence and two edits; a button or an arrow key says which edit is better,
    or that neither is, and the next two come. Answers are kept in a folder (see `Comparisons`) at once, so
    that it goes on where it was whenever it is opened again with the same questions; Undo takes the last one
    back and asks again.

    questions: a list of them, or `TwoEdits`; the first ones, as many as the folder holds comparisons, are
    answered. size: px of each picture. Without a kernel `figure()` is shown.
    """

    def __init__(
        self,
        questions: Sequence[Question] | TwoEdits,
        folder: str | Path,
        size: int = 256,
        pause: float = PAUSE,
    ):
        self.questions, self.size, self.pause = questions, size, pause
        self.comparisons = Comparisons(folder)
        self.question: Question | None = None  # the one that is shown
        self.heading = widgets.HTML(layout=widgets.Layout(width="98%"))
        self.pictures = [widgets.Image(format="png", width=size, height=size) for _ in range(3)]
        self.left = button("Left better", "arrow-left", "the left edit is better (key: left arrow)")
        self.neither = button("Neither", "arrows-h", "neither edit is better (key: down arrow)")
        self.right = button("Right better", "arrow-right", "the right edit is better (key: right arrow)")
        self.back = button("Undo", "undo", "take the last answer back (key: Backspace)")
        self.progress = widgets.IntProgress(0, min=0, max=len(questions), layout=widgets.Layout(width="12em"))
        self.message = widgets.HTML(layout=widgets.Layout(height="2em", width="98%"))
        self.actions = {
            "ArrowLeft": lambda: self.answer("left"),
            "ArrowDown": lambda: self.answer("neither"),
            "ArrowRight": lambda: self.answer("right"),
            "Backspace": self.undo,
        }
        self.keyboard = Keys(
            known=list(self.actions),
            words="Keys: ← left, → right, ↓ neither, Backspace undo (click here first)",
        )
        super().__init__(self._rows(), layout=widgets.Layout(max_width=f"{3 * (size + 12)}px"))
        self.add_class("ip2p-explorer")
        self._listen()
        self._ask()

    def _rows(self) -> list[widgets.Widget]:
        names = ["input picture", "left edit", "right edit"]
        frames = []
        for name, picture in zip(names, self.pictures, strict=True):
            frames.append(widgets.VBox([widgets.Label(name), picture]))
        wrapped = {"layout": widgets.Layout(width="98%", flex_flow="row wrap")}
        buttons = [self.left, self.neither, self.right, self.back, self.progress]
        return [
            self.heading,
            widgets.HBox(frames, **wrapped),
            widgets.HBox(buttons, **wrapped),
            self.keyboard,
            self.message,
            Access(pictures=names, progress="questions answered"),
        ]

    def _listen(self) -> None:
        buttons = (self.left, self.neither, self.right, self.back)
        for control, action in zip(buttons, self.actions.values(), strict=True):
            control.on_click(lambda _, action=action: action())
        self.keyboard.observe(lambda change: self.actions[change["new"][0]](), "pressed")

    def answer(self, better: str) -> None:
        """Keep an answer to the question that is shown ("left", "right" or "neither"), and ask the next."""
        if self.question is None or time.monotonic() - self.asked < self.pause:
            return
        q = self.question
        try:
            self.comparisons.add(q.image, q.instruction, q.left, q.right, better, q.before, q.after)
        except OSError as error:
            self._say(f"The answer was not kept: {error}.")
            return
        self._ask()

    def undo(self) -> None:
        """Take the last answer back, and ask its question again."""
        try:
            self.comparisons.undo()
        except (ValueError, OSError) as error:
            self._say(f"{str(error).capitalize()}.")
            return
        self._ask("Taken back. ")

    def _ask(self, words: str = "") -> None:
        """Show the first question that has no answer."""
        done = len(self.comparisons.rows)
        self.progress.value = done
        self.question = None
        if done >= len(self.questions):
            self._say(f"{words}All {done} are answered. Thank you.")
            return
        try:
            self.question = self.questions[done]
        except Exception as error:  # an exception in a callback would vanish unseen
            self._say(sentence(error))
            return
        q = self.question
        self.heading.value = f"<b>{html.escape(q.instruction)}</b>"
        for frame, picture in zip(self.pictures, (q.image, q.left, q.right), strict=True):
            frame.value = enlarged(picture, self.size)
        self._say(f"{words}Question {done + 1} of {len(self.questions)}: which edit is better?")
        self.asked = time.monotonic()

    def _say(self, words: str) -> None:
        self.message.value = html.escape(words, quote=False)

    def figure(self):
        """The question that is shown, as a matplotlib figure; None after the last."""
        if self.question is None:
            return None
        q = self.question
        square = (self.size, self.size)
        seen = [fit(picture, square) for picture in (q.image, q.left, q.right)]
        titles = ["input picture", "left edit", "right edit"]
        return grid(seen, titles=titles, size=2.2, heading=q.instruction)

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the static picture."""
        figure = self.figure()
        picture = png(Image.new("RGB", (1, 1), "white")) if figure is None else figure_png(figure)
        return super()._repr_mimebundle_(**kwargs) | {"image/png": base64_of(picture)}
