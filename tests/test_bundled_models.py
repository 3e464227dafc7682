"""What others rely on: the stock libraries load the bundled models, and both painters read with the same
encoder."""

import numpy as np
import pytest
import torch

from ip2p.paths import DATA

MODELS = DATA / "models"


@pytest.mark.parametrize(
    "name, cls, image",
    [
        ("mini-sd", "StableDiffusionPipeline", False),
        ("mini-ip2p", "StableDiffusionInstructPix2PixPipeline", True),
    ],
)
def test_stock_diffusers_paints_with_it(name, cls, image):
    import diffusers
    from PIL import Image

    pipe = getattr(diffusers, cls).from_pretrained(MODELS / name)
    pipe.set_progress_bar_config(disable=True)
    given = {"image": Image.open(DATA / "images" / "cat.png").convert("RGB")} if image else {}
    out = pipe(
        "a red cat at night", num_inference_steps=2, generator=torch.Generator().manual_seed(0), **given
    )
    assert out.images[0].size == (128, 128) and np.asarray(out.images[0]).std() > 5


def test_the_editor_reads_with_the_painters_text_encoder():
    for part in (
        "tokenizer/tokenizer.json",
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ):
        assert (MODELS / "mini-ip2p" / part).read_bytes() == (MODELS / "mini-sd" / part).read_bytes()


def test_the_autoencoder_gives_latents_of_unit_variance_once_scaled():
    from diffusers import AutoencoderKL

    from ip2p.common.images import as_tensor
    from ip2p.miniworld import random_scene, render

    vae = AutoencoderKL.from_pretrained(MODELS / "mini-sd" / "vae", dtype=torch.float32)
    with torch.no_grad():
        z = vae.encode(as_tensor([render(random_scene(i)) for i in range(48)]) * 2 - 1).latent_dist.mode()
    assert vae.config.scaling_factor == 0.18215
    assert ((z * 0.18215).std((0, 2, 3)) - 1).abs().max() < 0.25


def test_every_model_has_a_card_with_its_figures():
    for folder in sorted(MODELS.glob("mini-*")):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "ip2p models build" in card and "not measured yet" not in card, folder.name
