"""The profile sd15 through the same code: Stable Diffusion 1.5's true architecture, random weights.

Run in a process of its own, because its peak memory is asserted.
"""

import json
import subprocess
import sys

JOB = """
import json, resource, sys, torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, StableDiffusionPipeline
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from ip2p.editing import Editor
from ip2p.models.text_encoder import new_tokenizer
from ip2p.profiles import get_profile
from ip2p.prompt_to_prompt import embed, sample_pairs
from ip2p.training import cache_latents, edit_loss, widen_input
from PIL import Image

def build(make):  # from the config alone: no time is lost on drawing 10^9 random numbers twice
    with torch.device("meta"):
        model = make()
    model = model.to_empty(device="cpu").eval()
    for name, p in model.named_parameters():
        p.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        if p.ndim > 1:
            p.data.view(-1)[::7] = 0.02
    for module in model.modules():
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(77)[None]
    return model

torch.manual_seed(0)
tokenizer = new_tokenizer(["a photograph of a girl riding a horse", "have her ride a dragon"] * 20, 400)
tokenizer.model_max_length = 77
blocks = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
unet = build(lambda: UNet2DConditionModel(sample_size=32, cross_attention_dim=768, attention_head_dim=8,
    block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, down_block_types=blocks))
vae = build(lambda: AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2,
    sample_size=256, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4))
text = build(lambda: CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072,
    num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)))
scheduler = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    steps_offset=1)
pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet,
    scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
done, profile = {"parameters": sum(p.numel() for p in unet.parameters())}, get_profile("sd15")

girl = "a photograph of a girl riding a "
a, b = sample_pairs(pipe, [girl + "horse"], [girl + "dragon"], seeds=[1], p=0.5,
    guidance_scale=profile.pair_guidance[0], num_inference_steps=1, attention=profile.attention)
done["pair"] = [*a.shape, bool(a.isfinite().all() and b.isfinite().all())]

widen_input(unet)
image = Image.new("RGB", (300, 200), "orange")
edited = Editor(pipe, profile.guidance_scale, profile.image_guidance_scale)(image, "have her ride a dragon",
    num_inference_steps=1)
done["edit"] = list(edited.size)

# an adapter like LCM-LoRA, but random
from tempfile import TemporaryDirectory
from ip2p.fast import add_fast_lora
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

first = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
plain = first.weight.clone()
unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
with TemporaryDirectory() as folder:
    pipe.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    unet.unload_lora()
    unet.requires_grad_(True)
    scales_and_steps = add_fast_lora(pipe, folder)
pipe.unload_lora_weights()
fast = Editor(pipe, *scales_and_steps)
asked = []
forward = unet.forward
unet.forward = lambda x, *a, **k: (asked.append(len(x)), forward(x, *a, **k))[1]
edited = fast(image, "have her ride a dragon")
unet.forward = forward
fused = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight
done["fast"] = [*edited.size, asked, not torch.equal(plain, fused)]

source, target = cache_latents(pipe, [{"original_image": image.resize((256, 256)),
                                       "edited_image": image.resize((256, 256))}])
words, empty = embed(pipe, ["have her ride a dragon"]), embed(pipe, [""])
unet.train().enable_gradient_checkpointing()
optimiser = torch.optim.Adafactor(unet.parameters(), lr=1e-4)  # AdamW's two moments would take 7 GB more
before = unet.conv_out.weight.clone()
chance = torch.Generator().manual_seed(0)
loss = edit_loss(unet, scheduler.alphas_cumprod, source, target, words, empty, chance)
loss.backward()
optimiser.step()
done["train"] = [bool(loss.isfinite()), not torch.equal(before, unet.conv_out.weight)]
unit = 1e6 if sys.platform == "linux" else 1e9
done["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
print(json.dumps(done))
"""


def test_one_step_of_each_stage_within_12_gigabytes():
    run = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    done = json.loads(run.stdout.splitlines()[-1])
    assert done.pop("gigabytes") < 12
    assert done == {
        "parameters": 859_520_964,
        "pair": [1, 3, 256, 256, True],
        "edit": [256, 256],
        "fast": [256, 256, [2, 2, 2, 2], True],
        "train": [True, True],
    }
