import sys
from pathlib import Path
from transformers import CLIPTokenizer
from diffusers import AutoencoderKL
import torch
torch.set_num_threads(1)
from ip2p.models import clip
tok = CLIPTokenizer.from_pretrained("data/models/mini-sd/tokenizer")
vae = AutoencoderKL.from_pretrained("data/models/mini-sd/vae", dtype=torch.float32).eval()
model, log = clip.build(Path("out/stock/work"), tok, vae, dtype="bfloat16", steps=int(sys.argv[1]), lr=1.5e-3, start="data/models/mini-clip")
clip.save(model, tok, log, Path("out/stock/mini-clip"), Path("out/stock/work"), vae, hardware="one core of a CPU")
