"""Sliders for stage 5: edit one picture and watch what the two guidance scales do (notebooks 00 and 05)."""

from __future__ import annotations

import asyncio
import base64
import html
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import ipywidgets as widgets
from PIL import Image, ImageDraw, ImageFont

from ip2p.common.grids import grid
from ip2p.common.images import fit, open_image
from ip2p.editing import Editor


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
    return f"{str(error)[:1].upper()}{str(error)[1:]}."


class EditExplorer(widgets.VBox):
    """Input and edited picture side by side, and below them everything that decides the edit.

    A moved slider, a new sentence (Enter) or the button edits again; the picture sharpens while it is painted, and a
    newer wish replaces the one that is being painted. output: the last finished edit (None before the first). Without a
    kernel `figure()` is shown.

    image: a picture or its file. pictures: more to choose from, name -> file. size: px of each of the two pictures. The
    other arguments are where the controls stand at first (None: the editor's defaults).
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
        self.editor, self.size = editor, size
        self.output: Image.Image | None = None
        self.shown: dict | None = None  # the settings that `output` was made with
        self.source = ""  # the input picture's file
        self.way: list[dict] = []  # the edits that made the input picture out of its file
        self.past: list[tuple] = []  # (image, source, way, settings, output) of earlier edits, for undo
        self.wish = 0  # the number of the newest request
        s_t, s_i, n = (
            default if given is None else given
            for given, default in zip(
                (guidance_scale, image_guidance_scale, steps), editor.defaults, strict=True
            )
        )
        # no height of it depends on what it shows, so nothing jumps
        wide = {"style": {"description_width": "15em"}, "layout": widgets.Layout(width="98%")}
        self.files = {"(as given)": image} | dict(pictures or {})
        self.picker = widgets.Dropdown(
            options=list(self.files), description="picture", layout=widgets.Layout(width="20em")
        )
        self.upload = widgets.FileUpload(
            accept="image/*", description="Upload a picture", layout=widgets.Layout(width="14em")
        )
        self.instruction = widgets.Text(
            instruction,
            description="instruction (c_T)",
            continuous_update=False,
            **wide,
            placeholder="what to change, such as: make it night",
        )
        self.guidance_scale = widgets.FloatSlider(
            s_t,
            min=min(0, s_t),
            max=max(12, 2 * s_t),
            step=0.25,
            **wide,
            description="guidance_scale (s_T)",
            tooltip="how hard to follow the sentence",
        )
        self.image_guidance_scale = widgets.FloatSlider(
            s_i,
            min=min(0, s_i),
            max=max(3, 2 * s_i),
            step=0.05,
            **wide,
            description="image_guidance_scale (s_I)",
            tooltip="how closely to keep to the picture",
        )
        self.seed = widgets.IntSlider(
            seed, min=0, max=max(99, seed), description="seed (of the noise)", **wide
        )
        self.steps = widgets.IntSlider(
            n, min=1, max=max(50, 2 * n), description="steps (of denoising)", continuous_update=False, **wide
        )
        self.wipe = widgets.FloatSlider(
            0,
            min=0,
            max=1,
            step=0.01,
            description="before | after",
            readout=False,
            **wide,
            tooltip="lay the input over the left part of the edited picture",
        )
        self.button, self.next, self.back, self.save, self.both = (
            widgets.Button(
                description=name,
                icon=icon,
                tooltip=tip,
                button_style=style,
                layout=widgets.Layout(width="auto"),
            )
            for name, icon, tip, style in (
                ("Edit", "paint-brush", "edit as the controls say", "primary"),
                ("Edit further", "step-forward", "take the edited picture as the next input", ""),
                ("Undo", "undo", "back to the edit before this one", ""),
                ("Save", "download", "write the edited picture into this folder", ""),
                ("Both scales", "th", "the same edit at 25 pairs of scales", ""),
            )
        )
        self.progress = widgets.IntProgress(0, min=0, max=n, layout=widgets.Layout(width="12em"))
        self.message = widgets.HTML(layout=widgets.Layout(height="4em", width="98%"))
        self.code = widgets.Textarea(
            rows=9, layout=widgets.Layout(width="98%"), description="code", style={"description_width": "3em"}
        )
        self.sweep = widgets.Image(
            format="png",
            value=png(Image.new("RGB", (1, 1), "white")),
            layout=widgets.Layout(width=f"{2 * size}px", object_fit="contain"),
        )
        self.more = widgets.Accordion(
            [self.code, self.sweep],
            titles=("The code that made this picture", "The same edit at 25 pairs of scales"),
        )
        self.before, self.after = (widgets.Image(format="png", width=size, height=size) for _ in range(2))
        sides = [
            widgets.VBox([widgets.Label(name), side])
            for name, side in (("input picture (c_I)", self.before), ("edited picture", self.after))
        ]
        self.controls = (
            self.instruction,
            self.guidance_scale,
            self.image_guidance_scale,
            self.seed,
            self.steps,
        )
        buttons = widgets.HBox([self.button, self.next, self.back, self.both, self.save, self.progress])
        choice = widgets.HBox([self.picker, self.upload], layout=widgets.Layout(width="98%"))
        super().__init__(
            [choice, widgets.HBox(sides), self.wipe, *self.controls, buttons, self.message, self.more],
            layout=widgets.Layout(max_width=f"{2 * size + 24}px"),
        )
        self._take(as_image(image))
        for control in self.controls:
            control.observe(self.edit, "value")
        self.wipe.observe(lambda _: self._show(self.output or self.image), "value")
        self.picker.observe(self._pick, "value")
        self.upload.observe(self._uploaded, "value")
        for button, action in (
            (self.button, self.edit),
            (self.next, self._further),
            (self.back, self.undo),
            (self.save, self._save),
            (self.both, self._sweep),
        ):
            button.on_click(action)
        self._now(self.settings)  # at once, so that the page of an executed notebook is never blank

    @property
    def settings(self) -> dict:
        """What the controls say, as the editor's keyword arguments."""
        return {
            "instruction": self.instruction.value,
            "guidance_scale": self.guidance_scale.value,
            "image_guidance_scale": self.image_guidance_scale.value,
            "num_inference_steps": self.steps.value,
            "seed": self.seed.value,
        }

    # ------------------------------------------------------------------------------------------------ editing

    def edit(self, _=None) -> None:
        """Edit as the controls say. In a running kernel this returns at once, and a newer call replaces this one."""
        settings = self.settings
        self.wish += 1
        if settings == self.shown:  # leaving the text field by a click on the button asks twice
            self._say("Here it is: the same settings and seed always paint the same picture.")
            self._show(self.output)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no event loop: a plain Python program
            self._now(settings)
        else:
            self.task = loop.create_task(self._in_turn(self.wish, settings))  # kept, or it might be collected

    async def _in_turn(self, wish: int, settings: dict) -> None:
        """Paint step by step, and let the kernel hear of newer wishes in between."""
        for _ in self._painting(settings):
            await asyncio.sleep(0.001)
            if wish != self.wish:
                return

    def _now(self, settings: dict) -> None:
        for _ in self._painting(settings):
            pass

    def _painting(self, settings: dict) -> Iterator[None]:
        """Paint, show every step's predicted picture, and in the end keep it; what goes wrong is one sentence."""
        self.progress.max, self.progress.value = settings["num_inference_steps"], 0
        self._say("painting ...")
        options = {name: value for name, value in settings.items() if name not in ("instruction", "seed")}
        try:
            yield  # of many wishes that came at once, only the last is begun
            for step in self.editor.sample(
                [self.image], [settings["instruction"]], seeds=[settings["seed"]], **options
            ):
                self.progress.value = step.index + 1
                self._show(self.editor.decode(step.x0)[0])
                yield
            output = self.editor.finish(step.z, [self.image])[0]
        except Exception as error:  # an exception in a callback would vanish unseen
            self._say(sentence(error))
            self._show(self.output or self.image)
            return
        self._remember()
        self._finished(settings, output)
        self._say("Done. Move a slider, or write another sentence.")

    def _remember(self) -> None:
        if self.output is not None:
            self.past.append((self.image, self.source, self.way, self.shown, self.output))

    def _finished(self, settings: dict | None, output: Image.Image | None) -> None:
        self.shown, self.output = settings, output
        self.code.value = self.python()
        self._show(output or self.image)

    def undo(self, _=None) -> None:
        """Back to the edit before, controls and input picture included; first of all, away from one in the making."""
        if self.output is None or self.settings == self.shown:
            if not self.past:
                self._say("There is nothing to undo.")
                return
            image, source, way, settings, output = self.past.pop()
            self._take(image, source, way)
            self._finished(settings, output)
        else:
            self.wish += 1
            self._show(self.output)
        self._set(**self.shown)
        self._say("Back to the edit before.")

    def _set(self, **settings) -> None:
        """Set controls without editing."""
        names = ("instruction", "guidance_scale", "image_guidance_scale", "seed", "num_inference_steps")
        for control, name in zip(self.controls, names, strict=True):
            control.unobserve(self.edit, "value")
            control.value = settings.get(name, control.value)
            control.observe(self.edit, "value")

    def _further(self, _) -> None:
        """The edited picture becomes the input of the next edit."""
        if self.output is None:
            self._say("There is no edited picture yet.")
            return
        self._remember()
        self._take(self.output, self.source, [*self.way, self.shown])
        self._set(instruction="")
        self._say("This is the input now. Write what to change next.")

    # ------------------------------------------------------------------------------------------------ pictures

    def _take(self, image: Image.Image, source: str = "", way: Sequence[dict] = ()) -> None:
        """Another input picture; what was painted from the one before is no longer shown."""
        self.wish += 1
        self.source, self.way = source or getattr(image, "filename", "") or "picture.png", list(way)
        self.image, self.output, self.shown = image, None, None
        self.before.value = enlarged(image, self.size)
        self._show(image)

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
        self._take(image)
        self.edit()

    def _show(self, picture: Image.Image) -> None:
        """In the right frame: a picture, its left part covered by the input as far as `wipe` says."""
        if self.wipe.value:
            size = (self.size, self.size)
            picture = fit(picture, size)
            picture.paste(fit(self.image, size).crop((0, 0, round(self.wipe.value * self.size), self.size)))
        self.after.value = enlarged(picture, self.size)

    def _say(self, words: str) -> None:
        self.message.value = html.escape(words, quote=False)

    def _save(self, _) -> None:
        if self.output is None:
            self._say("There is no edited picture yet.")
            return
        path = next(path for k in count(1) if not (path := Path(f"edited-{k}.png")).exists())
        try:
            self.output.save(path)
            self._say(f"Saved as {path.resolve()}.")
        except OSError as error:
            self._say(f"{path.resolve()} cannot be written: {error.strerror}.")

    def _sweep(self, _) -> None:
        """The same edit with s_T across and s_I down, from the same noise, in one batch."""
        self.wish += 1
        self._show(self.output or self.image)
        settings = self.settings
        across, down = (
            [round(center * part, 2) for part in (0, 0.5, 1, 1.5, 2)]
            for center in (settings["guidance_scale"] or 1, settings["image_guidance_scale"] or 1)
        )
        scales = [(s_t, s_i) for s_i in down for s_t in across]
        try:
            edits = self.editor.many(
                [self.image] * 25,
                [settings["instruction"]] * 25,
                seeds=[settings["seed"]] * 25,
                guidance_scale=[s for s, _ in scales],
                image_guidance_scale=[s for _, s in scales],
                num_inference_steps=settings["num_inference_steps"],
            )
        except Exception as error:
            self._say(sentence(error))
            return
        figure = grid(
            [edits[k : k + 5] for k in range(0, 25, 5)],
            columns=[f"s_T = {s:g}" for s in across],
            rows=[f"s_I = {s:g}" for s in down],
            size=1.2,
            heading=settings["instruction"],
        )
        self.sweep.value, self.more.selected_index = figure_png(figure), 1
        self._say("The 25 pictures stand below, around your settings.")

    def python(self) -> str:
        """The program that paints the shown picture."""
        lines = [
            "from ip2p import load_editor",
            "from ip2p.editing import open_image",
            "",
            f"editor = load_editor({self.editor.name!r})",
            f"picture = open_image({str(self.source)!r})",
        ]
        for turn in [*self.way, *([self.shown] if self.shown else [])]:
            options = ", ".join(f"{name}={value!r}" for name, value in turn.items() if name != "instruction")
            lines.append(f"picture = editor(picture, {turn['instruction']!r}, {options})")
        return "\n".join([*lines, 'picture.save("edited.png")'])

    def figure(self):
        """Input and output with the settings, as a matplotlib figure."""
        shown = self.shown or self.settings
        settings = (
            f"s_T = {shown['guidance_scale']:g}, s_I = {shown['image_guidance_scale']:g}, "
            f"seed {shown['seed']}, {shown['num_inference_steps']} steps"
        )
        seen = Image.open(io.BytesIO(enlarged(self.image, self.size)))
        return grid(
            [seen, self.output], titles=["input picture", settings], size=2.6, heading=shown["instruction"]
        )

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the static picture."""
        picture = base64.b64encode(figure_png(self.figure())).decode()
        return super()._repr_mimebundle_(**kwargs) | {"image/png": picture}


class Frames(widgets.VBox):
    """A slider over pictures that were painted beforehand. frames: label -> PIL picture, all of one size."""

    def __init__(self, frames: dict[str, Image.Image], description: str = ""):
        self.frames = list(frames.values())
        pictures = [png(frame) for frame in self.frames]
        picture = widgets.Image(value=pictures[0], format="png")
        self.slider = widgets.SelectionSlider(
            options=[(label, i) for i, label in enumerate(frames)],
            description=description,
            layout=widgets.Layout(width="24em"),
        )
        self.slider.observe(lambda change: setattr(picture, "value", pictures[change["new"]]), "value")
        self.picture = picture
        super().__init__([self.slider, picture])

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the labelled frames one below the other."""
        width, height = self.frames[0].size
        sheet = Image.new("RGB", (width + 96, height * len(self.frames)), "white")
        for i, (frame, (label, _)) in enumerate(zip(self.frames, self.slider.options, strict=True)):
            sheet.paste(frame, (96, i * height))
            ImageDraw.Draw(sheet).text(
                (88, (i + 0.5) * height), label, "black", ImageFont.load_default(15), "rm"
            )
        return super()._repr_mimebundle_(**kwargs) | {"image/png": base64.b64encode(png(sheet)).decode()}
