"""Sliders for stage 5: edit one picture and watch what the two guidance scales do (notebooks 00 and 05)."""

from __future__ import annotations

import asyncio
import base64
import copy
import html
import io
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import torch
from PIL import Image, ImageDraw, ImageFont

from ip2p.common.diffusion import embed
from ip2p.common.grids import grid
from ip2p.common.images import fit, open_image
from ip2p.editing import Editor, Step
from ip2p.fast import SKETCH_STEPS
from ip2p.region import box_mask
from ip2p.teaching.access import Access
from ip2p.teaching.history import EditHistory, Turn
from ip2p.teaching.region import RegionPicture

SCALES = "guidance_scale", "image_guidance_scale"
PAUSE = 0.6  # seconds after which the full editor paints what the fast one has sketched


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def figure_png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def enlarged(image: Image.Image, size: int) -> bytes:
    """The square that the editor sees of a picture, `size` px wide, as PNG. LANCZOS keeps it crisp."""
    return png(fit(image, (size, size)))


def as_image(image: Image.Image | str | Path) -> Image.Image:
    return image if isinstance(image, Image.Image) else open_image(image)


def sentence(error: Exception) -> str:
    """An error as a sentence for the user."""
    if not isinstance(error, ValueError):
        return f"The editor failed: {type(error).__name__}: {error}."
    words = str(error)
    return f"{words[:1].upper()}{words[1:]}."


def button(name: str, icon: str, tooltip: str, style: str = "") -> widgets.Button:
    layout = widgets.Layout(width="auto")
    return widgets.Button(description=name, icon=icon, tooltip=tooltip, button_style=style, layout=layout)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def around(scale: float) -> list[float]:
    """Five scales from 0 to twice the given one (of 1, if that is 0), which stands in the middle."""
    middle = 1 if scale == 0 else scale
    return [round(middle * part, 2) for part in (0, 0.5, 1, 1.5, 2)]


def unused_path() -> Path:
    """edited-1.png in this folder, or the next number that is free."""
    number = 1
    while Path(f"edited-{number}.png").exists():
        number += 1
    return Path(f"edited-{number}.png")


@dataclass
class Earlier:
    """A finished edit that can be gone back to."""

    history: EditHistory  # of its input picture
    turn: Turn  # where one was
    settings: dict
    output: Image.Image


class EditExplorer(widgets.VBox):
    """Input and edited picture side by side, and below them everything that decides the edit.

    A moved slider, a new sentence (Enter) or the button edits again; the picture sharpens while it is
    painted, and a newer wish replaces the one that is being painted. With a fast editor a sketch follows the
    slider while it is dragged, and after a pause the full editor paints the same beside it. A box drawn on
    the input picture is where it may change. output: the last finished edit (None before the first). Without
    a kernel `figure()` is shown.

    image: a picture or its file. pictures: more to choose from, name -> file. size: px of each of the
    pictures. The other arguments are where the controls stand at first (None: the editor's defaults).
    """

    def __init__(
        self,
        editor: Editor,
        image: Image.Image | str | Path,
        instruction: str,
        *,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        size: int = 320,
        pictures: dict | None = None,
    ):
        self.editor = editor
        self.full = copy.copy(editor)
        self.full.fast = None
        self.size = size
        self.frames = 3 if editor.fast else 2  # side by side
        self.output: Image.Image | None = None
        self.shown: dict | None = None  # the settings that `output` was made with
        self.past: deque[Earlier] = deque(maxlen=100)  # for undo
        self.wish = 0  # the number of the newest request
        self.sketching = False  # the fast editor is following the controls
        self.encoded = None, None, None  # the last picture and sentence, and what the encoders say of them
        self.files = {"(as given)": image}
        if pictures is not None:
            self.files.update(pictures)
        default_s_t, default_s_i, default_steps = editor.defaults
        self._add_controls(
            instruction,
            default_s_t if guidance_scale is None else guidance_scale,
            default_s_i if image_guidance_scale is None else image_guidance_scale,
            seed,
            default_steps if steps is None else steps,
        )
        self._add_choice_of_pictures()
        self._add_buttons()
        self._add_frames()
        super().__init__(self._rows(), layout=widgets.Layout(max_width=f"{self.frames * (size + 12)}px"))
        self.add_class("ip2p-explorer")
        self._take(EditHistory(editor, as_image(image)))
        self._listen()
        self._now(self.settings)  # at once, so that the page of an executed notebook is never blank

    # --------------------------------------------------------------------------------------- its parts

    def _add_controls(self, instruction: str, s_t: float, s_i: float, seed: int, steps: int) -> None:
        """The text field and the sliders; no height of it depends on what it shows, so nothing jumps."""
        wide = {"style": {"description_width": "15em"}, "layout": widgets.Layout(width="98%")}
        self.instruction = widgets.Text(
            instruction,
            description="instruction (c_T)",
            continuous_update=False,
            placeholder="what to change, such as: make it night",
            **wide,
        )
        self.guidance_scale = widgets.FloatSlider(
            s_t,
            min=min(0, s_t),
            max=max(12, 2 * s_t),
            step=0.1,
            description="guidance_scale (s_T)",
            tooltip="how hard to follow the sentence",
            **wide,
        )
        self.image_guidance_scale = widgets.FloatSlider(
            s_i,
            min=min(0, s_i),
            max=max(3, 2 * s_i),
            step=0.05,
            description="image_guidance_scale (s_I)",
            tooltip="how closely to keep to the picture",
            **wide,
        )
        self.seed = widgets.IntSlider(
            seed, min=0, max=max(99, seed), description="seed (of the noise)", **wide
        )
        self.steps = widgets.IntSlider(
            steps,
            min=1,
            max=max(50, 2 * steps),
            description="steps (of denoising)",
            continuous_update=False,
            **wide,
        )
        self.wipe = widgets.FloatSlider(
            0,
            min=0,
            max=1,
            step=0.01,
            description="before | after",
            readout=False,
            tooltip="lay the input over the left part of the edited picture",
            **wide,
        )
        self.before = RegionPicture(size=self.size)
        self.controls = {  # name of a setting -> a widget, and which trait of it
            "instruction": (self.instruction, "value"),
            "guidance_scale": (self.guidance_scale, "value"),
            "image_guidance_scale": (self.image_guidance_scale, "value"),
            "num_inference_steps": (self.steps, "value"),
            "seed": (self.seed, "value"),
            "box": (self.before, "box"),
        }

    def _add_choice_of_pictures(self) -> None:
        self.picker = widgets.Dropdown(
            options=list(self.files), description="picture", layout=widgets.Layout(width="20em")
        )
        self.turns = widgets.Dropdown(
            description="go on from", tooltip="any earlier picture", layout=widgets.Layout(width="24em")
        )
        self.upload = widgets.FileUpload(
            accept="image/*", description="Upload a picture", layout=widgets.Layout(width="14em")
        )

    def _add_buttons(self) -> None:
        self.button = button("Edit", "paint-brush", "edit as the controls say", style="primary")
        self.next = button("Edit further", "step-forward", "take the edited picture as the next input")
        self.back = button("Undo", "undo", "back to the edit before this one")
        self.save = button("Save", "download", "write the edited picture into this folder")
        self.both = button("Both scales", "th", "the same edit at 25 pairs of scales")
        self.progress = widgets.IntProgress(
            0, min=0, max=self.steps.value, layout=widgets.Layout(width="12em")
        )

    def _add_frames(self) -> None:
        """Where pictures, messages and the code are shown."""
        self.sketch = widgets.Image(format="png", width=self.size, height=self.size)
        self.after = widgets.Image(format="png", width=self.size, height=self.size)
        self.message = widgets.HTML(layout=widgets.Layout(height="4em", width="98%"))
        self.code = widgets.Textarea(
            rows=9, layout=widgets.Layout(width="98%"), description="code", style={"description_width": "3em"}
        )
        self.sweep = widgets.Image(
            format="png",
            value=png(Image.new("RGB", (1, 1), "white")),
            layout=widgets.Layout(width=f"{2 * self.size}px", object_fit="contain"),
        )
        self.more = widgets.Accordion(
            [self.code, self.sweep],
            titles=("The code that made this picture", "The same edit at 25 pairs of scales"),
        )

    def _rows(self) -> list[widgets.Widget]:
        names = ["input picture", "edited picture", "the same edit at 25 pairs of scales"]
        if self.editor.fast:
            names.insert(1, "sketch by the fast editor")
        wrapped = {"layout": widgets.Layout(width="98%", flex_flow="row wrap")}  # on a phone
        choice = widgets.HBox([self.picker, self.upload, self.turns], **wrapped)
        frames = [widgets.VBox([widgets.Label("input picture (c_I): draw a box to edit there"), self.before])]
        if self.editor.fast:
            frames.append(widgets.VBox([widgets.Label("while you drag"), self.sketch]))
        frames.append(widgets.VBox([widgets.Label("edited picture"), self.after]))
        sliders = [self.instruction, self.guidance_scale, self.image_guidance_scale, self.seed, self.steps]
        buttons = [self.button, self.next, self.back, self.both, self.save, self.progress]
        return [
            choice,
            widgets.HBox(frames, **wrapped),
            self.wipe,
            *sliders,
            widgets.HBox(buttons, **wrapped),
            self.message,
            self.more,
            Access(pictures=names),
        ]

    def _listen(self) -> None:
        for control, trait in self.controls.values():
            control.observe(self.edit, trait)
        self.wipe.observe(self._show_again, "value")
        self.picker.observe(self._pick, "value")
        self.turns.observe(self._go, "value")
        self.upload.observe(self._uploaded, "value")
        self.button.on_click(self.edit)
        self.next.on_click(self._further)
        self.back.on_click(self.undo)
        self.save.on_click(self._save)
        self.both.on_click(self._sweep)

    @property
    def image(self) -> Image.Image:
        """The input picture."""
        return self.history.picture

    @property
    def settings(self) -> dict:
        """What the controls say, as the editor's keyword arguments; but for "box", which becomes a mask."""
        return {name: getattr(control, trait) for name, (control, trait) in self.controls.items()}

    # --------------------------------------------------------------------------------------- editing

    def edit(self, _=None) -> None:
        """Edit as the controls say. In a running kernel this returns at once; a newer call replaces it."""
        settings = self.settings
        self.wish += 1
        if settings == self.shown:  # leaving the text field by a click on the button asks twice
            self._say("Here it is: the same settings and seed always paint the same picture.")
            self._show(self.output)
            return
        if self.sketching:  # who follows the controls will see that there is a newer wish
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no event loop: a plain Python program
            self._now(settings)
            return
        self.sketching = self.editor.fast is not None
        work = self._follow() if self.sketching else self._in_turn(self.wish, settings)
        self.task = loop.create_task(work)  # kept, or it might be collected

    async def _follow(self) -> None:
        """Sketch what the controls say, until they rest; after a pause paint it with the full editor."""
        wish = None
        while wish != self.wish:
            wish = self.wish
            self._sketch(self.settings)
            await asyncio.sleep(0.001)
        self.sketching = False
        await asyncio.sleep(PAUSE)
        if wish == self.wish:
            await self._in_turn(wish, self.settings)

    async def _in_turn(self, wish: int, settings: dict) -> None:
        """Paint step by step, and let the kernel hear of newer wishes in between."""
        for _ in self._painting(settings):
            await asyncio.sleep(0.001)
            if wish != self.wish:
                return

    def _now(self, settings: dict) -> None:
        if self.editor.fast:
            self._sketch(settings)
        for _ in self._painting(settings):
            pass

    def _sample(self, editor: Editor, settings: dict) -> Iterator[Step]:
        """The editor's steps; of the same picture and sentence nothing is encoded again."""
        options = dict(settings)
        instruction = options.pop("instruction")
        box = options.pop("box")
        image, words, encoded = self.encoded
        if image is not self.image or words != instruction:
            encoded = None
            if instruction.strip():  # of an empty one the editor complains
                with torch.no_grad():
                    encoded = editor.encode([self.image]), embed(editor.pipe, [instruction])
            self.encoded = self.image, instruction, encoded
        masks = [box_mask(self.image, box)] if box else None
        seeds = [options.pop("seed")]
        yield from editor.sample(
            [self.image], [instruction], seeds=seeds, masks=masks, encoded=encoded, **options
        )

    def _finish(self, z: torch.Tensor, box: list[float]) -> Image.Image:
        masks = [box_mask(self.image, box)] if box else None
        return self.editor.finish(z, [self.image], masks)[0]

    def _sketch(self, settings: dict) -> None:
        """What the fast editor paints, in the frame of its own, at the nearest scales that it has learned: at
        others the full one would, and a slider would wait for it."""
        options = settings | {"num_inference_steps": SKETCH_STEPS}
        for scale, (low, high) in zip(SCALES, self.editor.fast.scales, strict=True):
            options[scale] = min(max(settings[scale], low), high)
        try:
            *_, last = self._sample(self.editor, options)
            self.sketch.value = png(self._finish(last.z, settings["box"]))
        except Exception as error:
            self._say(sentence(error))
            return
        self._say("This is a sketch by the fast editor; let go, and the full one paints the picture.")

    def _painting(self, settings: dict) -> Iterator[None]:
        """Paint, show every step's predicted picture, keep the last; what goes wrong is one sentence."""
        self.progress.max = settings["num_inference_steps"]
        self.progress.value = 0
        self._say("painting ...")
        try:
            yield  # of many wishes that came at once, only the last is begun
            for step in self._sample(self.full, settings):
                self.progress.value = step.index + 1
                self._show(self.editor.decode(step.x0)[0])
                yield
            output = self._finish(step.z, settings["box"])
        except Exception as error:  # an exception in a callback would vanish unseen
            self._say(sentence(error))
            self._show_again()
            return
        self._remember()
        self._finished(settings, output)
        self._say("Done. Move a slider, or write another sentence.")

    def _remember(self) -> None:
        if self.output is not None:
            self.past.append(Earlier(self.history, self.history.here, self.shown, self.output))

    def _finished(self, settings: dict, output: Image.Image) -> None:
        self.shown = settings
        self.output = output
        self.code.value = self.python()
        self._show(output)

    def undo(self, _=None) -> None:
        """Back to the edit before, controls and input picture included; first, away from one being made."""
        if self.output is None or self.settings == self.shown:
            if not self.past:
                self._say("There is nothing to undo.")
                return
            earlier = self.past.pop()
            earlier.history.go(earlier.turn)
            self._take(earlier.history)
            self._finished(earlier.settings, earlier.output)
        else:
            self.wish += 1
            self._show(self.output)
        self._set(**self.shown)
        self._say("Back to the edit before.")

    def _set(self, **settings) -> None:
        """Set controls without editing."""
        for name, value in settings.items():
            control, trait = self.controls[name]
            control.unobserve(self.edit, trait)
            setattr(control, trait, value)
            control.observe(self.edit, trait)

    def _further(self, _) -> None:
        """The edited picture becomes the input of the next edit."""
        if self.output is None:
            self._say("There is no edited picture yet.")
            return
        self._remember()
        self.history.add(self.shown, self.output)
        self._take(self.history)
        self._set(instruction="", box=[])
        self._say("This is the input now. Write what to change next.")

    def _go(self, change) -> None:
        """Any earlier input picture is the input again."""
        if self.taking:
            return
        self._remember()
        self.history.go(change["new"])
        self._take(self.history)
        self._set(box=[])
        self._say("This is the input again. Write what to change, or press Edit.")

    # --------------------------------------------------------------------------------------- pictures

    def _take(self, history: EditHistory) -> None:
        """Another input picture; what was painted from the one before is no longer shown."""
        self.wish += 1
        self.history = history  # the edits that made the input picture out of its file
        self.output = None
        self.shown = None
        self.before.value = enlarged(self.image, self.size)
        self.sketch.value = self.before.value
        self._show(self.image)
        self.taking = True  # new options change the choice by themselves
        self.turns.options = history.labels()
        self.turns.value = history.here
        self.taking = False

    def _pick(self, change) -> None:
        self._other(lambda: as_image(self.files[change["new"]]))

    def _uploaded(self, change) -> None:
        if change["new"]:
            file = change["new"][0]
            self._other(lambda: open_image(io.BytesIO(file["content"]), file["name"]))

    def _other(self, opened: Callable[[], Image.Image]) -> None:
        """Edit another input picture, if it can be opened."""
        try:
            image = opened()
        except ValueError as error:
            self._say(sentence(error))
            return
        self._remember()
        self._take(EditHistory(self.editor, image))
        self.edit()

    def _show(self, picture: Image.Image) -> None:
        """In the right frame: a picture, its left part covered by the input as far as `wipe` says."""
        if self.wipe.value:
            size = (self.size, self.size)
            covered = round(self.wipe.value * self.size)
            picture = fit(picture, size)
            picture.paste(fit(self.image, size).crop((0, 0, covered, self.size)))
        self.after.value = enlarged(picture, self.size)

    def _show_again(self, _=None) -> None:
        self._show(self.image if self.output is None else self.output)

    def _say(self, words: str) -> None:
        self.message.value = html.escape(words, quote=False)

    def _save(self, _) -> None:
        if self.output is None:
            self._say("There is no edited picture yet.")
            return
        path = unused_path()
        try:
            self.output.save(path)
            self._say(f"Saved as {path.resolve()}.")
        except OSError as error:
            self._say(f"{path.resolve()} cannot be written: {error.strerror}.")

    def _sweep(self, _) -> None:
        """The same edit with s_T across and s_I down, from the same noise, in one batch."""
        self.wish += 1
        self._show_again()
        options = self.settings
        instruction = options.pop("instruction")
        box = options.pop("box")
        across = around(options.pop("guidance_scale"))
        down = around(options.pop("image_guidance_scale"))
        try:
            edits = self.full.many(
                [self.image] * 25,
                [instruction] * 25,
                masks=[box_mask(self.image, box)] * 25 if box else None,
                seeds=[options.pop("seed")] * 25,
                guidance_scale=across * 5,
                image_guidance_scale=[s_i for s_i in down for _ in across],
                **options,
            )
        except Exception as error:
            self._say(sentence(error))
            return
        figure = grid(
            [edits[k : k + 5] for k in range(0, 25, 5)],
            columns=[f"s_T = {s_t:g}" for s_t in across],
            rows=[f"s_I = {s_i:g}" for s_i in down],
            size=1.2,
            heading=instruction,
        )
        self.sweep.value = figure_png(figure)
        self.more.selected_index = 1
        self._say("The 25 pictures stand below, around your settings.")

    def python(self) -> str:
        """The program that paints the shown picture."""
        source = getattr(self.history.given.picture, "filename", "")
        lines = [
            "from ip2p import load_editor",
            "from ip2p.common.images import open_image",
            "",
            f"editor = load_editor({self.editor.name!r})",
            f"picture = open_image({source or 'picture.png'!r})",
        ]
        edits = [turn.settings for turn in self.history.here.path()]
        if self.shown is not None:
            edits.append(self.shown)
        if any(settings["box"] for settings in edits):
            lines.insert(2, "from ip2p.region import box_mask")
        for settings in edits:
            options = dict(settings)
            instruction = options.pop("instruction")
            box = options.pop("box")
            words = [f"{name}={value!r}" for name, value in options.items()]
            if box:
                words.append(f"mask=box_mask(picture, {box})")
            lines.append(f"picture = editor(picture, {instruction!r}, {', '.join(words)})")
        lines.append('picture.save("edited.png")')
        return "\n".join(lines)

    def figure(self):
        """Input and output with the settings, as a matplotlib figure."""
        shown = self.settings if self.shown is None else self.shown
        settings = (
            f"s_T = {shown['guidance_scale']:g}, s_I = {shown['image_guidance_scale']:g}, "
            f"seed {shown['seed']}, {shown['num_inference_steps']} steps"
        )
        seen = fit(self.image, (self.size, self.size))
        titles = ["input picture", settings]
        return grid([seen, self.output], titles=titles, size=2.6, heading=shown["instruction"])

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the static picture."""
        return super()._repr_mimebundle_(**kwargs) | {"image/png": base64_of(figure_png(self.figure()))}


class Frames(widgets.VBox):
    """A slider over pictures that were painted beforehand. frames: label -> PIL picture, all of one size."""

    def __init__(self, frames: dict[str, Image.Image], description: str = ""):
        self.frames = list(frames.values())
        self.pngs = [png(frame) for frame in self.frames]
        self.picture = widgets.Image(value=self.pngs[0], format="png")
        self.slider = widgets.SelectionSlider(
            options=[(label, i) for i, label in enumerate(frames)],
            description=description,
            layout=widgets.Layout(width="24em"),
        )
        self.slider.observe(self._show, "value")
        super().__init__([self.slider, self.picture])

    def _show(self, change) -> None:
        self.picture.value = self.pngs[change["new"]]

    def sheet(self) -> Image.Image:
        """The labelled frames one below the other."""
        width, height = self.frames[0].size
        sheet = Image.new("RGB", (width + 96, height * len(self.frames)), "white")
        font = ImageFont.load_default(15)
        for i, frame in enumerate(self.frames):
            label, _ = self.slider.options[i]
            sheet.paste(frame, (96, i * height))
            ImageDraw.Draw(sheet).text((88, (i + 0.5) * height), label, "black", font, "rm")
        return sheet

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the sheet."""
        return super()._repr_mimebundle_(**kwargs) | {"image/png": base64_of(png(self.sheet()))}
