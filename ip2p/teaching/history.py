"""Edits of edits, with branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from ip2p.editing import Editor


@dataclass(eq=False)
class Turn:
    """A picture, and the settings of the edit that made it out of the one before; a given one has neither."""

    picture: Image.Image
    settings: dict = field(default_factory=dict)
    before: Turn | None = None
    after: list[Turn] = field(default_factory=list)

    def path(self) -> list[Turn]:
        """The edits that led here from the given picture, in their order."""
        return [] if self.before is None else [*self.before.path(), self]


class EditHistory:
    """A tree of edits: each instruction works on the picture where one is; `go` goes to any other one, and on
    from there; `undo` goes to the picture before."""

    def __init__(self, editor: Editor, image: Image.Image):
        self.editor = editor
        self.here = self.given = Turn(image)

    @property
    def picture(self) -> Image.Image:
        return self.here.picture

    def edit(self, instruction: str, **options) -> Image.Image:
        """Edit the picture; `options` as for the editor."""
        picture = self.editor(self.picture, instruction, **options)
        self.add({"instruction": instruction, **options}, picture)
        return picture

    def add(self, settings: dict, picture: Image.Image) -> None:
        """Go on from a picture that was painted elsewhere, with these arguments of the editor."""
        turn = Turn(picture, settings, self.here)
        self.here.after.append(turn)
        self.here = turn

    def go(self, turn: Turn) -> None:
        self.here = turn

    def undo(self) -> Image.Image:
        """Back to the picture before the last edit, which stays in the tree; returns where one is now."""
        if self.here.before is not None:
            self.here = self.here.before
        return self.picture

    def labels(self) -> list[tuple[str, Turn]]:
        """All turns with words for them, each edit below the picture that it edits."""
        return [("as given", self.given), *labels_below(self.given, "")]


def labels_below(turn: Turn, number: str) -> Iterator[tuple[str, Turn]]:
    """("1.2 make it night", turn) and so on."""
    for i, after in enumerate(turn.after, 1):
        name = f"{number}{i}"
        yield f"{name} {after.settings['instruction']}", after
        yield from labels_below(after, f"{name}.")
