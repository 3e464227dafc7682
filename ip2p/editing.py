"""Stage 5, section 3.2.1 of InstructPix2Pix: edit an image by an instruction, steered by two guidance scales.

`Editor` edits; its generator `sample` hands out every denoising step with the three predictions of Eq. 3.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from ip2p.common.diffusion import (
    alpha_bar_at,
    decode,
    embed,
    from_x0,
    new_scheduler,
    seeded,
    starting_latents,
    to_x0,
)
from ip2p.common.images import as_uint8, fit, mask_tensor, to_float, to_mask, to_pil
from ip2p.profiles import PROFILES, Profile, get_profile, load_edit_pipeline, settle

LARGEST_SCALE = 100.0  # far beyond what paints anything, and far from what overflows
Size = tuple[int, int] | str | None


def guided_eps(
    eps: torch.Tensor,
    eps_image: torch.Tensor,
    eps_both: torch.Tensor,
    guidance_scale: float | torch.Tensor,
    image_guidance_scale: float | torch.Tensor,
) -> torch.Tensor:
    """Eq. 3 of InstructPix2Pix, any pair of scales.

    eps + s_I (eps_image - eps) + s_T (eps_both - eps_image), where these are eps(z, 0, 0), eps(z, c_I, 0) and
    eps(z, c_I, c_T), each (B, c, h, w). Returns the same shape.
    """
    return eps + image_guidance_scale * (eps_image - eps) + guidance_scale * (eps_both - eps_image)


@dataclass(frozen=True)
class Step:
    """One denoising step of n edits. All tensors are (n, c, h, w) latents."""

    index: int  # 0 to of - 1
    of: int  # evaluations of the UNet; two a step with schedulers of second order
    t: float  # timestep, 0 to 1000
    z: torch.Tensor  # after the step
    x0: torch.Tensor  # what the finished latent would be if the guided prediction were right
    # Eq. 3; under a mask it is the prediction that means x0 with the input put back outside
    guided: torch.Tensor
    # The three predictions. None: not computed, since it counts in Eq. 3 for none of the edits, or since a
    # distilled editor needs none of them. One that counts for some edits only is zeros for the others.
    eps: torch.Tensor | None  # eps(z, 0, 0)
    eps_image: torch.Tensor | None  # eps(z, c_I, 0)
    eps_both: torch.Tensor | None  # eps(z, c_I, c_T)


class Guidance:
    """The three predictions of Eq. 3 for n edits, each computed only for the images for which it counts.

    At s_I = 1 the first one cancels, at s_T = s_I the second, at s_T = 0 the third. unet: with input channels
    for noise and image. image: E(c_I), (n, c, h, w). text, empty: token features of the instructions and of
    "", (n, T, d). s_t, s_i: (n,). `whole`: compute all three for all.
    """

    def __init__(
        self,
        unet,
        image: torch.Tensor,
        text: torch.Tensor,
        empty: torch.Tensor,
        s_t: torch.Tensor,
        s_i: torch.Tensor,
        whole: bool = False,
    ):
        dtype = unet.dtype  # asked once: it looks at every weight
        self.unet = unet
        self.image = image.to(dtype)
        self.s_t = s_t.to(image.device)[:, None, None, None]
        self.s_i = s_i.to(image.device)[:, None, None, None]
        counts = (torch.stack([1 - s_i, s_i - s_t, s_t]) != 0) | whole  # (3, n)
        self.rows = []  # the images of each kind
        for of_kind in counts:
            self.rows.append(of_kind.nonzero().flatten().to(image.device))
        no_image = torch.zeros_like(self.image)
        no_text = empty.to(dtype)
        self.context = self.chosen(no_image, self.image, self.image)
        self.prompts = self.chosen(no_text, no_text, text.to(dtype))

    def chosen(self, of_eps: torch.Tensor, of_image: torch.Tensor, of_both: torch.Tensor) -> torch.Tensor:
        """The rows that are computed, of three tensors (n, ...) below each other."""
        eps, image, both = self.rows
        return torch.cat([of_eps[eps], of_image[image], of_both[both]])

    def three(self, z: torch.Tensor, t) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """z: (n, c, h, w), the UNet's input. Returns Eq. 3 and its predictions (None: it counts nowhere)."""
        x = torch.cat([self.chosen(z, z, z).to(self.image.dtype), self.context], 1)
        answers = self.unet(x, t, self.prompts).sample.float()
        computed = []
        predictions = []
        for rows, answer in zip(self.rows, answers.split([len(rows) for rows in self.rows]), strict=True):
            prediction = torch.zeros_like(z).index_copy_(0, rows, answer)
            predictions.append(prediction)
            computed.append(prediction if len(rows) else None)
        return guided_eps(*predictions, self.s_t, self.s_i), computed


class Editor:
    """Edits images with a diffusers StableDiffusionInstructPix2PixPipeline. Made by `load_editor`."""

    def __init__(
        self,
        pipe,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        steps: int = 20,
        name: str = "mini",
    ):
        self.pipe = pipe
        self.name = name
        self.fast = None  # a `Distilled`, see `ip2p.fast`
        self.defaults = (guidance_scale, image_guidance_scale, steps)
        self.factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)  # pixels of a latent's side
        self.resolution = pipe.unet.config.sample_size * self.factor
        halvings = len(pipe.unet.config.block_out_channels) - 1
        self.multiple = self.factor * 2**halvings  # what sides are multiples of
        self.compiled = None, None  # a UNet, and itself for one square image at a time, see `compile`

    def __call__(
        self,
        image: Image.Image,
        instruction: str,
        *,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        seed: int = 0,
        mask: Image.Image | None = None,
        size: Size = None,
        scheduler: str | None = None,
        callback: Callable | None = None,
    ) -> Image.Image:
        """Edit one image. Without `size` the answer is the square of the model (mini: 128 px) in the middle.

        guidance_scale: s_T, strength of the instruction; image_guidance_scale: s_I, likeness to the input;
        numbers from -100 to 100. mask: of the image's shape, and only where it is white may the picture
        change (see `to_mask` for transparent ones). size: (width, height), or "keep" for the image's own
        shape with as many pixels as the square has. scheduler: class name of a diffusers scheduler (None: the
        pipeline's own, Euler ancestral). callback(step, predicted picture as PIL) is called after each step.
        Raises ValueError for an empty instruction, an impossible size, scale or mask, or an unknown
        scheduler.
        """
        pictures = self.many(
            [image],
            [instruction],
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            num_inference_steps=num_inference_steps,
            seeds=[seed],
            masks=None if mask is None else [mask],
            size=size,
            scheduler=scheduler,
            callback=callback,
        )
        return pictures[0]

    def compile(self, bf16: bool = False) -> Editor:
        """Make edits of one square image faster: torch.compile, which takes a minute or two, once; returns
        the editor.

        In float32 pictures differ by at most 1/255; in bfloat16 by more (`ip2p bench editing` measures it). A
        whole step computes all three predictions then, since another number of rows would be compiled anew.
        Needs a C++ compiler on a CPU. Raises ValueError if it cannot be done.
        """
        unet = self.fast.unet if self.fast else self.pipe.unet
        rough = copy.deepcopy(unet).to(torch.bfloat16) if bf16 else unet
        self.compiled = unet, torch.compile(rough, dynamic=False, options={"freezing": True})
        try:
            self(Image.new("RGB", (8, 8)), "compile", num_inference_steps=1)
        except Exception as error:
            self.compiled = None, None
            raise ValueError(
                f"the model cannot be compiled here, so it stays as it is ({str(error).splitlines()[0]})"
            ) from error
        return self

    def many(
        self,
        images: list[Image.Image],
        instructions: list[str],
        *,
        masks: list[Image.Image] | None = None,
        size: Size = None,
        callback: Callable | None = None,
        **options,
    ) -> list[Image.Image]:
        """Edit n images of one size in one batch. `options`: see `sample`; the callback sees the first."""
        for step in self.sample(images, instructions, masks=masks, size=size, **options):
            if callback is not None:
                callback(step.index, self.decode(step.x0[:1])[0])
        return self.finish(step.z, images, masks, size)

    def finish(
        self,
        z: torch.Tensor,
        images: list[Image.Image],
        masks: list[Image.Image] | None = None,
        size: Size = None,
    ) -> list[Image.Image]:
        """The last latents as pictures; outside of its mask, each has the input's own pixels."""
        pictures = self.decode(z)
        if masks is None:
            return pictures
        size = self.output_size(images[0], size)
        kept = []
        for picture, image, mask in zip(pictures, images, masks, strict=True):
            kept.append(Image.composite(picture, fit(image, size), fitted_mask(mask, image, size)))
        return kept

    @torch.no_grad()
    def sample(
        self,
        images: list[Image.Image],
        instructions: list[str],
        *,
        guidance_scale: float | Sequence[float] | None = None,
        image_guidance_scale: float | Sequence[float] | None = None,
        num_inference_steps: int | None = None,
        seeds: Sequence[int] | None = None,
        masks: list[Image.Image] | None = None,
        size: Size = None,
        scheduler: str | None = None,
        all_predictions: bool = False,
        encoded: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Iterator[Step]:
        """The denoising of n edits, step by step; whoever stops asking stops the work.

        Scales: one for all, or n. The noise belongs to each image's seed (None: 0 to n - 1), so neighbours
        change nothing. Of the three predictions only those are computed that count in Eq. 3 (see `Guidance`);
        `all_predictions` computes them all the same. A fast editor computes one, unless all or another
        scheduler are asked for, or scales that it has not learned. encoded: what `encode` and `embed` said of
        these images and instructions, if they were asked before.
        """
        n = len(images)
        default_s_t, default_s_i, default_steps = self.defaults
        s_t = one_each("guidance_scale", default_s_t if guidance_scale is None else guidance_scale, n)
        s_i = one_each(
            "image_guidance_scale", default_s_i if image_guidance_scale is None else image_guidance_scale, n
        )
        fast = self.fast if scheduler is None and not all_predictions else None
        if fast and not fast.knows(s_t, s_i):
            fast.warn()
            fast = None
        usual = fast.steps if fast else default_steps
        steps = usual if num_inference_steps is None else num_inference_steps
        check_edits(n, instructions, seeds, masks, steps)
        source, text = encoded or (self.encode(images, size), embed(self.pipe, instructions))
        kept = None if masks is None else self.kept_outside(masks, images, source, size)
        unet = fast.unet if fast else self.pipe.unet
        alone, compiled = self.compiled
        if alone is unet and n == 1 and size is None:
            unet, all_predictions = compiled, True
        if fast:
            predict = fast.guidance(unet, source, text, s_t, s_i)
            solver = new_scheduler(fast.scheduler)
        else:
            empty = embed(self.pipe, [""]).expand(n, -1, -1)
            predict = Guidance(unet, source, text, empty, s_t, s_i, all_predictions).three
            solver = new_scheduler(self.pipe.scheduler, scheduler)
        solver.set_timesteps(steps, device=source.device)
        generators = seeded(range(n) if seeds is None else seeds)
        latents = source[:, : self.pipe.vae.config.latent_channels]  # without a region (`ip2p.region`)
        yield from denoise_edits(predict, latents, solver, generators, kept)

    def kept_outside(
        self, masks: list[Image.Image], images: list[Image.Image], source: torch.Tensor, size: Size
    ) -> Callable:
        """A function of clean latents that puts the input's own in their place outside of the masks."""
        size = self.output_size(images[0], size)
        fitted = [fitted_mask(mask, image, size) for mask, image in zip(masks, images, strict=True)]
        free = mask_tensor(fitted).to(source.device)
        # (n, 1, h, w): a latent is free if any of its pixels is
        free = F.adaptive_max_pool2d(free, source.shape[2:])
        own = (1 - free) * source * self.pipe.vae.config.scaling_factor
        return lambda x0: free * x0 + own

    def output_size(self, image: Image.Image, size: Size = None) -> tuple[int, int]:
        """(width, height) of the edit of an image, see `__call__`. ValueError: an impossible size."""
        if size is None:
            return self.resolution, self.resolution
        if size == "keep":
            return self.size_of_shape(*ImageOps.exif_transpose(image).size)
        width, height = size
        if min(width, height) < self.multiple or width % self.multiple or height % self.multiple:
            raise ValueError(
                f"{width} x {height} is no size that this model can paint; width and height must be "
                f"multiples of {self.multiple}"
            )
        return width, height

    def size_of_shape(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that can be painted, of this shape and about as large as the model's square."""
        ratio = (width / height) ** 0.5
        if not 0.5 <= ratio <= 2:
            raise ValueError(
                f"an image of {width} x {height} is too long to be edited as a whole; cut "
                "it to at most 4:1, or edit the square in its middle"
            )
        units = self.resolution / self.multiple
        wide = max(1, round(units * ratio))
        high = max(1, round(units * (1 / ratio)))
        return self.multiple * wide, self.multiple * high

    def encode(self, images: list[Image.Image], size: Size = None) -> torch.Tensor:
        """E(c_I): posterior modes, unscaled, (n, c, h, w) float32."""
        sizes = {self.output_size(image, size) for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"one batch has one size, not {sorted(sizes)}; give a size, or edit the images apart"
            )
        vae = self.pipe.vae
        x = to_float(as_uint8([fit(image, *sizes) for image in images]))
        # with low_memory the autoencoder lies elsewhere until it works
        return vae.encode(x.to(self.pipe._execution_device, vae.dtype)).latent_dist.mode().float()

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> list[Image.Image]:
        """Scaled latents -> PIL images."""
        return [to_pil(picture) for picture in decode(self.pipe, z)]


def check_edits(
    n: int,
    instructions: list[str],
    seeds: Sequence[int] | None,
    masks: list[Image.Image] | None,
    steps: int,
) -> None:
    """Raise ValueError for what does not belong together, before anything is painted."""
    for instruction in instructions:
        if not instruction.strip():
            raise ValueError('the instruction is empty; say what to change, such as "make it night"')
    for name, given in (("instructions", instructions), ("seeds", seeds), ("masks", masks)):
        if given is not None and len(given) != n:
            raise ValueError(f"{len(given)} {name} for {n} images; give one for each")
    if steps < 1:
        raise ValueError(f"{steps} denoising steps; it must be at least 1")


def one_each(name: str, scale: float | Sequence[float], n: int) -> torch.Tensor:
    """A scale, or n of them, as (n,) float32. Raises ValueError for what is no scale."""
    scale = torch.as_tensor(scale, dtype=torch.float32).expand(n)
    for value in scale.tolist():
        if not abs(value) <= LARGEST_SCALE:  # not a number is not within the limits either
            raise ValueError(f"{name} is {value}; take a number from {-LARGEST_SCALE:g} to {LARGEST_SCALE:g}")
    return scale


def fitted_mask(mask: Image.Image, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The part of a mask that lies over the part of its image which is edited, mode L, of that size.

    Raises ValueError if the mask has another shape than the image, or nothing may change.
    """
    mask = to_mask(mask)
    width, height = ImageOps.exif_transpose(image).size
    too_wide = mask.width - mask.height * width / height
    too_high = mask.height - mask.width * height / width
    if min(abs(too_wide), abs(too_high)) > 1:  # one pixel: what rounding may do to a scaled mask
        raise ValueError(
            f"the mask is {mask.width} x {mask.height} and the image {width} x {height}; "
            "give a mask of the same shape"
        )
    fitted = ImageOps.fit(mask, size, Image.Resampling.BOX)  # no ringing where nothing may change
    if fitted.getextrema()[1] == 0:
        raise ValueError("the mask lets nothing change; paint what may change white, and what may not black")
    return fitted


def denoise_edits(
    predict: Callable,
    image: torch.Tensor,
    scheduler,
    generators: list[torch.Generator],
    kept: Callable | None = None,
) -> Iterator[Step]:
    """The loop of `Editor.sample`. predict: see `Guidance.three`. scheduler: its timesteps set. kept: see
    `Editor.kept_outside`."""
    options = noise_options(scheduler, generators)
    kind = scheduler.config.prediction_type
    z = starting_latents(scheduler, image.shape[1:], generators, image.device)
    timesteps = scheduler.timesteps.tolist()
    for index, t in enumerate(scheduler.timesteps):
        z_in = scheduler.scale_model_input(z, t)
        guided, predictions = predict(z_in, t)
        alpha_bar = alpha_bar_at(scheduler, timesteps[index])
        x0 = to_x0(guided, z_in, alpha_bar, kind)
        if kept is not None:
            x0 = kept(x0)
            guided = from_x0(x0, z_in, alpha_bar, kind)
        z = scheduler.step(guided, t, z, **options).prev_sample
        yield Step(index, len(timesteps), timesteps[index], z, x0, guided, *predictions)


def noise_options(scheduler, generators: list[torch.Generator]) -> dict:
    """How a scheduler's `step` is told whose noise to add: by `generator`, by seeds, or not at all."""
    if hasattr(scheduler, "noise_sampler_seed"):  # DPMSolverSDE makes its noise itself
        scheduler.noise_sampler_seed = [generator.initial_seed() for generator in generators]
    if "generator" in inspect.signature(scheduler.step).parameters:
        return {"generator": generators}
    return {}


def load_editor(
    name: str | Profile = "mini",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    profile: str | Profile = "mini",
    fast: bool = False,
) -> Editor:
    """The editor of a profile ("mini", "sd15", or one of your own), of a folder saved by stage 4 or a stock
    pipeline, or of the hub.

    device, dtype: see `choose_device` and `choose_dtype`; None: the profile's, which is "auto" for those that
    we bring. "auto" on a CPU is float32, whose pictures repeat to the bit. A folder's scales and steps, too,
    are those of `profile`, unless an edit says otherwise. fast: with the distilled UNet that lies in the
    folder, or the profile's adapter for few steps (see `ip2p.fast`). Raises ValueError for a name, a device
    or a number format that there is not, and for a folder without a fast editor.
    """
    if isinstance(name, Profile) or name in PROFILES:
        defaults = get_profile(name)
        name, path = defaults.name, defaults.editor
    elif Path(name).exists() or "/" in name:
        defaults = get_profile(profile)
        path = name
    else:
        raise ValueError(f"there is no profile or folder {name!r}; profiles are {', '.join(PROFILES)}")
    device, dtype = defaults.place(device, dtype)
    pipe = settle(load_edit_pipeline(path, dtype), device, defaults.low_memory)
    editor = Editor(pipe, defaults.guidance_scale, defaults.image_guidance_scale, defaults.steps, str(name))
    if fast:
        from ip2p.fast import make_fast

        make_fast(editor, path, defaults.fast_lora)
    return editor
