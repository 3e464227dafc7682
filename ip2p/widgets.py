"""Sliders for stage 5: edit one picture and watch what the two guidance scales do (notebooks 00 and 05)."""

from __future__ import annotations

import base64
import io

import ipywidgets as widgets
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ip2p.editing import Editor, to_rgb
from ip2p.show import grid


def enlarged(image: Image.Image, size: int) -> bytes:
    """The square that the editor sees of a picture, `size` px wide, as PNG. LANCZOS keeps it crisp."""
    buffer = io.BytesIO()
    ImageOps.fit(to_rgb(image), (size, size), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


class EditExplorer(widgets.VBox):
    """Input and edited picture side by side, and below them everything that decides the edit.

    A released slider, a new sentence (Enter) or the button runs `editor` again; the picture appears while it
    is painted. output: the last edited picture (None before the first). Without a kernel `figure()` is shown.

    size: px of each of the two pictures. The other arguments are where the controls stand at first (None: the
    editor's defaults).
    """

    def __init__(self, editor: Editor, image: Image.Image, instruction: str, *,
                 guidance_scale: float | None = None, image_guidance_scale: float | None = None,
                 seed: int = 0, steps: int | None = None, size: int = 320):
        self.editor, self.image, self.size = editor, image, size
        self.output: Image.Image | None = None
        self.shown: dict | None = None  # the settings that `output` was made with
        s_t, s_i, n = (default if given is None else given for given, default in
                       zip((guidance_scale, image_guidance_scale, steps), editor.defaults, strict=True))
        wide = {"style": {"description_width": "15em"}, "layout": widgets.Layout(width="98%")}
        released = wide | {"continuous_update": False}  # one edit when the hand is off, not one a pixel

        self.instruction = widgets.Text(instruction, description="instruction (c_T)", **released,
                                        placeholder="what to change, such as: make it night")
        self.guidance_scale = widgets.FloatSlider(
            s_t, min=min(0, s_t), max=max(12, 2 * s_t), step=0.25, **released,
            description="guidance_scale (s_T)", tooltip="how hard to follow the sentence")
        self.image_guidance_scale = widgets.FloatSlider(
            s_i, min=min(0, s_i), max=max(3, 2 * s_i), step=0.05, **released,
            description="image_guidance_scale (s_I)", tooltip="how closely to keep to the picture")
        self.seed = widgets.IntSlider(seed, min=0, max=max(99, seed), **released,
                                      description="seed (of the noise)")
        self.steps = widgets.IntSlider(n, min=1, max=max(50, 2 * n), **released,
                                       description="steps (of denoising)")
        self.button = widgets.Button(description="Edit", icon="paint-brush", button_style="primary")
        self.progress = widgets.IntProgress(0, min=0, max=n, layout=widgets.Layout(width="12em"))
        self.message = widgets.Label()

        picture = enlarged(image, size)
        self.before, self.after = (widgets.Image(value=picture, format="png", width=size, height=size)
                                   for _ in range(2))
        sides = [widgets.VBox([widgets.Label(name), side]) for name, side in
                 (("input picture (c_I)", self.before), ("edited picture", self.after))]
        self.controls = (self.instruction, self.guidance_scale, self.image_guidance_scale, self.seed,
                         self.steps)
        super().__init__([widgets.HBox(sides), *self.controls,
                          widgets.HBox([self.button, self.progress, self.message])],
                         layout=widgets.Layout(max_width=f"{2 * size + 24}px"))
        for control in self.controls:
            control.observe(self.edit, "value")
        self.button.on_click(self.edit)
        self.edit()

    @property
    def settings(self) -> dict:
        """What the controls say, as the editor's keyword arguments."""
        return {"instruction": self.instruction.value, "guidance_scale": self.guidance_scale.value,
                "image_guidance_scale": self.image_guidance_scale.value,
                "num_inference_steps": self.steps.value, "seed": self.seed.value}

    def edit(self, _=None) -> None:
        """Edit as the controls say and show the picture; if that cannot be, say why in one sentence."""
        settings = self.settings
        if settings == self.shown:  # leaving the text field by a click on the button asks twice
            self.message.value = "Here it is: the same settings and seed always paint the same picture."
            return
        self.progress.max, self.progress.value = settings["num_inference_steps"], 0
        self.button.disabled, self.message.value = True, "painting ..."
        try:
            self.output, self.shown = self.editor(self.image, **settings, callback=self.watch), settings
            self.message.value = "Done. Move a slider, or write another sentence."
        except ValueError as error:
            self.message.value = f"{str(error)[:1].upper()}{str(error)[1:]}."
        except Exception as error:  # an exception in a callback would vanish unseen
            self.message.value = f"The editor failed: {type(error).__name__}: {error}"
        finally:
            self.button.disabled = False
            self.after.value = enlarged(self.output or self.image, self.size)

    def watch(self, step: int, picture: Image.Image) -> None:
        """The editor's callback: how far it is, and what it believes the picture will be."""
        self.progress.value = step + 1
        self.after.value = enlarged(picture, self.size)

    def figure(self):
        """Input and output with the settings, as a matplotlib figure."""
        shown = self.shown or self.settings
        settings = (f"s_T = {shown['guidance_scale']:g}, s_I = {shown['image_guidance_scale']:g}, "
                    f"seed {shown['seed']}, {shown['num_inference_steps']} steps")
        seen = Image.open(io.BytesIO(enlarged(self.image, self.size)))
        return grid([seen, self.output], titles=["input picture", settings], size=2.6,
                    heading=shown["instruction"])

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the static picture."""
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format="png")
        picture = base64.b64encode(buffer.getvalue()).decode()
        return super()._repr_mimebundle_(**kwargs) | {"image/png": picture}


class Frames(widgets.VBox):
    """A slider over pictures that were painted beforehand. frames: label -> PIL picture, all of one size."""

    def __init__(self, frames: dict[str, Image.Image], description: str = ""):
        self.frames, pictures = list(frames.values()), []
        for frame in self.frames:
            buffer = io.BytesIO()
            frame.save(buffer, "PNG")
            pictures.append(buffer.getvalue())
        picture = widgets.Image(value=pictures[0], format="png")
        self.slider = widgets.SelectionSlider(options=[(label, i) for i, label in enumerate(frames)],
                                              description=description, layout=widgets.Layout(width="24em"))
        self.slider.observe(lambda change: setattr(picture, "value", pictures[change["new"]]), "value")
        self.picture = picture
        super().__init__([self.slider, picture])

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The live widget, and for viewers that have none the labelled frames one below the other."""
        width, height = self.frames[0].size
        sheet = Image.new("RGB", (width + 96, height * len(self.frames)), "white")
        for i, (frame, (label, _)) in enumerate(zip(self.frames, self.slider.options, strict=True)):
            sheet.paste(frame, (96, i * height))
            ImageDraw.Draw(sheet).text((88, (i + 0.5) * height), label, "black", ImageFont.load_default(15), "rm")
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        return super()._repr_mimebundle_(**kwargs) | {"image/png": base64.b64encode(buffer.getvalue()).decode()}
