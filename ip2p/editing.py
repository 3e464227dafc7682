"""Stage 5, section 3.2.1 of InstructPix2Pix: edit an image by an instruction, steered by two guidance scales.

`Editor` edits; its generator `sample` hands out every denoising step with the three predictions of Eq. 3.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ip2p.common.diffusion import alpha_bar_at, embed, from_x0, new_scheduler, to_x0
from ip2p.common.images import fit
from ip2p.profiles import PROFILES, get_profile, load_edit_pipeline


def guided_eps(
    eps: torch.Tensor,
    eps_image: torch.Tensor,
    eps_both: torch.Tensor,
    guidance_scale: float,
    image_guidance_scale: float,
) -> torch.Tensor:
    """Eq. 3 of InstructPix2Pix, any pair of scales. eps(z, 0, 0), eps(z, c_I, 0), eps(z, c_I, c_T): (B, c, h, w) each.

    eps + s_I (eps_image - eps) + s_T (eps_both - eps_image). Returns the same shape.
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
    guided: torch.Tensor  # Eq. 3
    eps: (
        torch.Tensor | None
    )  # eps(z, 0, 0); None where its share in Eq. 3 is 0 for all, so it was not computed
    eps_image: torch.Tensor | None  # eps(z, c_I, 0)
    eps_both: torch.Tensor | None  # eps(z, c_I, c_T)


Size = tuple[int, int] | str | None


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
        self.pipe, self.name = pipe, name
        self.defaults = (guidance_scale, image_guidance_scale, steps)
        self.factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)  # pixels of a latent's side
        self.resolution = pipe.unet.config.sample_size * self.factor
        self.multiple = self.factor * 2 ** (
            len(pipe.unet.config.block_out_channels) - 1
        )  # what sides are multiples of
        self.compiled = None  # the UNet for one square image at a time, see `compile`

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
        guidance_every: int = 1,
        callback: Callable | None = None,
    ) -> Image.Image:
        """Edit one image. Without `size` the answer is the model's square (mini: 64 px), cut from the middle.

        guidance_scale: s_T, strength of the instruction; image_guidance_scale: s_I, likeness to the input; any numbers.
        mask: only where it is white may the picture change. size: (width, height), or "keep" for the image's own shape
        with as many pixels as the square has. scheduler: class name of a diffusers scheduler (None: the pipeline's own,
        Euler ancestral). guidance_every: 2 or more is faster, and not exact (see `sample`). callback(step, predicted
        picture as PIL) is called after each step. Raises ValueError for an empty instruction, an impossible size or an
        unknown scheduler.
        """
        return self.many(
            [image],
            [instruction],
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            num_inference_steps=num_inference_steps,
            seeds=[seed],
            masks=None if mask is None else [mask],
            size=size,
            scheduler=scheduler,
            guidance_every=guidance_every,
            callback=callback,
        )[0]

    def compile(self, bf16: bool = False) -> Editor:
        """Make edits of one square image faster: torch.compile, which takes a minute or two, once; returns the editor.

        In float32 pictures differ by at most 1/255; in bfloat16 by more (`ip2p bench editing` measures it).
        A whole step computes all three predictions then, since another number of rows would be compiled anew. Needs a
        C++ compiler on a CPU. Raises ValueError if it cannot be done.
        """
        unet = copy.deepcopy(self.pipe.unet).to(torch.bfloat16) if bf16 else self.pipe.unet
        self.compiled = torch.compile(unet, dynamic=False, options={"freezing": True})
        try:
            self(
                Image.new("RGB", (8, 8)), "compile", num_inference_steps=2, guidance_every=2
            )  # three rows, and one
        except Exception as error:
            self.compiled = None
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
        """Edit n images in one batch, all of one size. `options`: see `sample`. The callback sees the first one."""
        for step in self.sample(images, instructions, masks=masks, size=size, **options):
            if callback:
                callback(step.index, self.decode(step.x0[:1])[0])
        return self.finish(step.z, images, masks, size)

    def finish(
        self, z: torch.Tensor, images: list[Image.Image], masks=None, size: Size = None
    ) -> list[Image.Image]:
        """The last latents as pictures; outside of its mask, each has the input's own pixels."""
        pictures = self.decode(z)
        if masks is None:
            return pictures
        size = self.output_size(images[0], size)
        return [
            Image.composite(picture, fit(image, size), fit(mask, size).convert("L"))
            for picture, image, mask in zip(pictures, images, masks, strict=True)
        ]

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
        guidance_every: int = 1,
    ) -> Iterator[Step]:
        """The denoising of n edits, step by step; whoever stops asking stops the work.

        Scales: one for all, or n. The noise belongs to each image's seed (None: 0 to n - 1), so neighbours change
        nothing. Of the three predictions only those are computed that count in Eq. 3: at s_I = 1 the first one cancels,
        at s_T = s_I the second, at s_T = 0 the third. `all_predictions` computes them all the same. guidance_every:
        whole in every so many evaluations only; between them eps(z, c_I, c_T) alone is computed, and what guidance adds
        to it is what it added last: faster, and not exact (`ip2p bench guidance` measures both).
        """
        n, device, unet = len(images), self.pipe.unet.device, self.pipe.unet
        if self.compiled is not None and n == 1 and size is None:
            unet, all_predictions = self.compiled, True
        for text in instructions:
            if not text.strip():
                raise ValueError('the instruction is empty; say what to change, such as "make it night"')
        s_t, s_i, steps = (
            default if given is None else given
            for given, default in zip(
                (guidance_scale, image_guidance_scale, num_inference_steps), self.defaults, strict=True
            )
        )
        for name, given in (("instructions", instructions), ("seeds", seeds), ("masks", masks)):
            if given is not None and len(given) != n:
                raise ValueError(f"{len(given)} {name} for {n} images; give one for each")
        if min(steps, guidance_every) < 1:
            raise ValueError(
                f"{steps} denoising steps, guidance in every {guidance_every}: each must be at least 1"
            )
        s_t, s_i = (torch.as_tensor(s, dtype=torch.float32).expand(n) for s in (s_t, s_i))
        counts = torch.stack([1 - s_i, s_i - s_t, s_t]) != 0  # (3, n): whose prediction has a share in Eq. 3
        counts[2] |= guidance_every > 1
        rows = [
            torch.arange(n) if all_predictions else c.nonzero().flatten() for c in counts
        ]  # images, of each kind
        s_t, s_i = (s.to(device).view(n, 1, 1, 1) for s in (s_t, s_i))

        source = self.encode(images, size)
        nothing = torch.zeros_like(source)
        context = torch.cat([c[r] for c, r in zip((nothing, source, source), rows, strict=True)])
        empty = embed(self.pipe, [""]).expand(n, -1, -1)
        text = torch.cat(
            [t[r] for t, r in zip((empty, empty, embed(self.pipe, instructions)), rows, strict=True)]
        )
        dtype = unet.dtype  # asked once: it looks at every weight
        text, context = text.to(dtype), context.to(dtype)
        if masks is not None:
            free = (
                torch.stack(
                    [
                        torch.from_numpy(np.array(fit(m, self.output_size(images[0], size)).convert("L")))
                        for m in masks
                    ]
                )[:, None].to(device)
                / 255
            )
            free = torch.nn.functional.adaptive_max_pool2d(free, source.shape[2:])  # (n, 1, h, w)

        generators = [torch.Generator().manual_seed(int(s)) for s in (range(n) if seeds is None else seeds)]
        scheduler = new_scheduler(self.pipe.scheduler, scheduler)
        scheduler.set_timesteps(steps, device=device)
        if hasattr(scheduler, "noise_sampler_seed"):  # DPMSolverSDE makes its noise itself
            scheduler.noise_sampler_seed = [g.initial_seed() for g in generators]
        noise = (
            {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
        )
        kind = scheduler.config.prediction_type
        z = torch.stack([torch.randn(source.shape[1:], generator=g) for g in generators]).to(device)
        z = z * scheduler.init_noise_sigma
        timesteps, which = scheduler.timesteps.tolist(), torch.cat(rows).to(device)
        for index, t in enumerate(scheduler.timesteps):
            z_in = scheduler.scale_model_input(z, t)
            if index % guidance_every == 0:
                x = torch.cat([z_in[which].to(dtype), context], 1)
                answers = unet(x, t, text).sample.float().split([len(r) for r in rows])
                predictions = [
                    torch.zeros_like(z).index_copy_(0, r.to(device), answer) if len(r) else nothing
                    for r, answer in zip(rows, answers, strict=True)
                ]
                guided = guided_eps(*predictions, s_t, s_i)
                pull = guided - predictions[2]  # what guidance adds to eps(z, c_I, c_T)
            else:
                x = torch.cat([z_in.to(dtype), context[-n:]], 1)
                predictions = [None, None, unet(x, t, text[-n:]).sample.float()]
                guided = predictions[2] + pull
            alpha_bar = alpha_bar_at(scheduler, timesteps[index])
            x0 = to_x0(guided, z_in, alpha_bar, kind)
            if masks is not None:
                x0 = free * x0 + (1 - free) * source * self.pipe.vae.config.scaling_factor
                guided = from_x0(x0, z_in, alpha_bar, kind)
            z = scheduler.step(guided, t, z, **noise).prev_sample
            yield Step(
                index,
                len(timesteps),
                timesteps[index],
                z,
                x0,
                guided,
                *(p if len(r) else None for p, r in zip(predictions, rows, strict=True)),
            )

    def output_size(self, image: Image.Image, size: Size = None) -> tuple[int, int]:
        """(width, height) of the edit of an image; see `__call__`. Raises ValueError for what is impossible."""
        if size is None:
            return self.resolution, self.resolution
        if size == "keep":
            image = ImageOps.exif_transpose(image)
            ratio = (image.width / image.height) ** 0.5
            if not 0.5 <= ratio <= 2:
                raise ValueError(
                    f"an image of {image.width} x {image.height} is too long to be edited as a whole; cut "
                    "it to at most 4:1, or edit the square in its middle"
                )
            units = self.resolution / self.multiple
            size = [self.multiple * max(1, round(units * side)) for side in (ratio, 1 / ratio)]
        width, height = size
        if min(width, height) < self.multiple or width % self.multiple or height % self.multiple:
            raise ValueError(
                f"{width} x {height} is no size that this model can paint; width and height must be "
                f"multiples of {self.multiple}"
            )
        return width, height

    def encode(self, images: list[Image.Image], size: Size = None) -> torch.Tensor:
        """E(c_I): posterior modes, unscaled, (n, c, h, w)."""
        sizes = {self.output_size(image, size) for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"one batch has one size, not {sorted(sizes)}; give a size, or edit the images apart"
            )
        arrays = [np.asarray(fit(image, *sizes)) for image in images]
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.pipe.vae.encode(x.to(self.pipe.vae.device)).latent_dist.mode()

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> list[Image.Image]:
        """Scaled latents -> PIL images."""
        x = self.pipe.vae.decode(z / self.pipe.vae.config.scaling_factor).sample
        x = ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(a) for a in x]


class EditHistory:
    """Edits of edits: each instruction works on the picture before it, and `undo` goes back.

    turns: [(settings, picture)], the input picture first, with empty settings.
    """

    def __init__(self, editor: Editor, image: Image.Image):
        self.editor, self.turns = editor, [({}, image)]

    @property
    def picture(self) -> Image.Image:
        return self.turns[-1][1]

    def edit(self, instruction: str, **options) -> Image.Image:
        """Edit the last picture; `options` as for the editor."""
        picture = self.editor(self.picture, instruction, **options)
        self.turns.append(({"instruction": instruction, **options}, picture))
        return picture

    def undo(self) -> Image.Image:
        """Forget the last edit (the input picture stays); returns what is the last picture now."""
        if len(self.turns) > 1:
            self.turns.pop()
        return self.picture


def load_editor(name: str = "mini", device: str = "cpu", profile: str = "mini") -> Editor:
    """The editor of a profile ("mini", "sd15"), of a folder saved by stage 4 or a stock pipeline, or of the hub. Scales
    and steps of a folder are those of `profile`, unless an edit says otherwise."""
    if name not in PROFILES and not Path(name).exists() and "/" not in name:
        raise ValueError(f"there is no profile or folder {name!r}; profiles are {', '.join(PROFILES)}")
    profile = get_profile(name if name in PROFILES else profile)
    pipe = load_edit_pipeline(profile.editor if name in PROFILES else name)
    return Editor(
        pipe.to(device), profile.guidance_scale, profile.image_guidance_scale, profile.steps, str(name)
    )
