"""Stage 5, section 3.2.1 of InstructPix2Pix: edit an image by an instruction, steered by two guidance scales."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ip2p.profiles import PROFILES, get_profile, load_edit_pipeline
from ip2p.prompt_to_prompt import embed


def guided_eps(eps: torch.Tensor, eps_image: torch.Tensor, eps_both: torch.Tensor, guidance_scale: float,
               image_guidance_scale: float) -> torch.Tensor:
    """Eq. 3 of InstructPix2Pix, any pair of scales. eps(z, 0, 0), eps(z, c_I, 0), eps(z, c_I, c_T): (B, c, h, w) each.

    eps + s_I (eps_image - eps) + s_T (eps_both - eps_image). Returns the same shape.
    """
    return eps + image_guidance_scale * (eps_image - eps) + guidance_scale * (eps_both - eps_image)


def open_image(path: str | Path) -> Image.Image:
    """An image file as upright RGB. Raises ValueError with one sentence if it is missing or no image."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no image {path}; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{path} is too large an image; scale it down first") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); save it again as PNG or JPEG") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, transparency over white, RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: to 8, which convert() would cut off instead
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class Editor:
    """Edits images with a diffusers StableDiffusionInstructPix2PixPipeline. Made by `load_editor`."""

    def __init__(self, pipe, guidance_scale: float = 7.5, image_guidance_scale: float = 1.5, steps: int = 20):
        self.pipe = pipe
        self.defaults = (guidance_scale, image_guidance_scale, steps)
        self.resolution = pipe.unet.config.sample_size * 2 ** (len(pipe.vae.config.block_out_channels) - 1)

    def __call__(self, image: Image.Image, instruction: str, *, guidance_scale: float | None = None,
                 image_guidance_scale: float | None = None, num_inference_steps: int | None = None, seed: int = 0,
                 callback: Callable | None = None) -> Image.Image:
        """Edit one image. The answer has the model's resolution (mini: 64 px, the image is fitted to a square).

        guidance_scale: s_T, strength of the instruction; image_guidance_scale: s_I, likeness to the input.
        callback(step, predicted picture as PIL) is called after each step. Raises ValueError for an empty
        instruction.
        """
        return self.many([image], [instruction], guidance_scale=guidance_scale,
                         image_guidance_scale=image_guidance_scale, num_inference_steps=num_inference_steps,
                         seeds=[seed], callback=callback)[0]

    @torch.no_grad()
    def many(self, images: list[Image.Image], instructions: list[str], *, guidance_scale=None,
             image_guidance_scale=None, num_inference_steps: int | None = None, seeds=None,
             callback: Callable | None = None) -> list[Image.Image]:
        """Edit n images in one batch. Scales: one for all, or n. The noise belongs to each image's seed."""
        n, device = len(images), self.pipe.unet.device
        for text in instructions:
            if not text.strip():
                raise ValueError('the instruction is empty; say what to change, such as "make it night"')
        s_t, s_i, steps = (default if given is None else given for given, default in
                           zip((guidance_scale, image_guidance_scale, num_inference_steps), self.defaults, strict=True))
        if steps < 1:
            raise ValueError(f"{steps} denoising steps are too few; take at least 1")
        s_t, s_i = (torch.as_tensor(s, dtype=torch.float32).expand(n).to(device).view(n, 1, 1, 1) for s in (s_t, s_i))
        source = self.encode(images)
        text, empty = embed(self.pipe, instructions), embed(self.pipe, [""]).expand(n, -1, -1)
        scheduler, unet = self.pipe.scheduler, self.pipe.unet
        scheduler.set_timesteps(steps, device=device)
        generators = [torch.Generator().manual_seed(int(s)) for s in (seeds if seeds is not None else range(n))]
        z = torch.stack([torch.randn(source.shape[1:], generator=g) for g in generators]).to(device)
        z = z * scheduler.init_noise_sigma
        for step, t in enumerate(scheduler.timesteps):
            z_in = scheduler.scale_model_input(z, t)
            batch = torch.cat([torch.cat([z_in, torch.zeros_like(source)], 1), *[torch.cat([z_in, source], 1)] * 2])
            eps = guided_eps(*unet(batch, t, torch.cat([empty, empty, text])).sample.chunk(3), s_t, s_i)
            out = scheduler.step(eps, t, z, generator=generators)
            z = out.prev_sample
            if callback:
                callback(step, self.decode(out.pred_original_sample)[0])
        return self.decode(z)

    def encode(self, images: list[Image.Image]) -> torch.Tensor:
        """E(c_I): posterior modes, unscaled, (n, c, h, w)."""
        size = (self.resolution, self.resolution)
        arrays = [np.asarray(ImageOps.fit(to_rgb(i), size, Image.Resampling.LANCZOS)) for i in images]
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.pipe.vae.encode(x.to(self.pipe.vae.device)).latent_dist.mode()

    def decode(self, z: torch.Tensor) -> list[Image.Image]:
        """Scaled latents -> PIL images."""
        x = self.pipe.vae.decode(z / self.pipe.vae.config.scaling_factor).sample
        x = ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(a) for a in x]


def load_editor(name: str = "mini", device: str = "cpu") -> Editor:
    """The editor of a profile ("mini", "sd15"), of a folder saved by stage 4 or a stock pipeline, or of the hub."""
    if name in PROFILES:
        profile = get_profile(name)
        pipe = load_edit_pipeline(profile.editor)
        return Editor(pipe.to(device), profile.guidance_scale, profile.image_guidance_scale, profile.steps)
    if not Path(name).exists() and "/" not in name:
        raise ValueError(f"there is no profile or folder {name!r}; profiles are {', '.join(PROFILES)}")
    profile = get_profile("mini")
    return Editor(load_edit_pipeline(name).to(device), profile.guidance_scale, profile.image_guidance_scale,
                  profile.steps)
