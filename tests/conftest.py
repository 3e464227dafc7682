"""Tiny seeded models in the true architectures, made from configs: no download, milliseconds a step."""

import os
import shutil

import pytest
import torch
from slow import SLOW

from ip2p.paths import ROOT

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # a core for each worker
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PICTURES = ROOT / "out" / "browser"


# These files begin, or else one core waits at the end for the other.
LONGEST_FIRST = ("test_notebooks.py", "test_browser.py")


def pytest_collection_modifyitems(items):
    """Mark the tests that tests/slow.py names, and begin with what takes longest."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)
    for item in items:
        name = f"{item.path.name}::{item.name}["
        if any(name.startswith(slow if "[" in slow else f"{slow}[") for slow in SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def page():
    if BROWSER is None:
        how = "no Chromium or Chrome here: on Debian, `apt-get install chromium` brings it"
        pytest.fail(how) if os.environ.get("CI") else pytest.skip(how)
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1500})
        yield page
        page.screenshot(path=PICTURES / "last.png")
        browser.close()


@pytest.fixture(scope="session")
def tiny_judge():
    """An untrained judge: what it says means nothing, and always the same."""
    from ip2p.miniworld.judging import Judge

    torch.manual_seed(0)
    return Judge(channels=(8, 8), squeeze=4, width=8, size=32).eval()


@pytest.fixture(scope="session")
def tiny_clip(tiny_pipe, tmp_path_factory):
    """A folder with an untrained CLIP, as open_clip loads it."""
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    from ip2p.models.clip import model_config, preprocess_config
    from ip2p.models.files import write_json

    folder = tmp_path_factory.mktemp("clip")
    config = model_config(tiny_pipe.tokenizer, size=32)
    config["vision_cfg"] |= {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    config["text_cfg"] |= {"width": 16, "heads": 2, "layers": 1}
    config["embed_dim"] = 16
    write_json(
        folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess_config(32)}
    )
    tiny_pipe.tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    save_file(CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_profile(tiny_pipe, tiny_clip, tmp_path_factory):
    """The profile mini with tiny models of 32 px, and few steps."""
    from dataclasses import replace

    from ip2p.profiles import MINI
    from ip2p.training import new_editor

    folder = tmp_path_factory.mktemp("tiny-models")
    tiny_pipe.save_pretrained(folder / "sd")
    profile = replace(
        MINI,
        text_to_image=str(folder / "sd"),
        editor=str(folder / "editor"),
        clip=str(tiny_clip),
        resolution=32,
        steps=2,
        pair_steps=2,
    )
    new_editor(profile).save_pretrained(folder / "editor")
    return profile


@pytest.fixture(scope="session")
def tiny_pipe():
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ip2p.models.text_encoder import new_tokenizer
    from ip2p.models.text_to_image import new_scheduler

    torch.manual_seed(0)
    tokenizer = new_tokenizer(
        ["a red cat on the beach at night", "a blue dog on a farm", "make it day"] * 10, 300
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=40,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for module in (vae, text, unet):
        module.eval()
    return pipe
