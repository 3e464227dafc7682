"""The profile sd15 through the same code: Stable Diffusion 1.5's true architecture, random weights.

Run in a process of its own, because its peak memory is asserted.
"""

import json
import subprocess
import sys

JOB = """
import json, torch
from tempfile import TemporaryDirectory
from PIL import Image
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from ip2p.editing import Editor
from ip2p.fast import make_fast
from ip2p.study.true_size import INSTRUCTION, edit, paint, peak, train, true_pipe

pipe = true_pipe(256)
done = {"parameters": sum(p.numel() for p in pipe.unet.parameters())}
first, second = paint(pipe)
done["pair"] = [*first.shape, bool(first.isfinite().all() and second.isfinite().all())]
done["edit"] = list(edit(pipe).size)

# an adapter for few steps like LCM-LoRA, but random
first = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
plain = first.weight.clone()
pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
with TemporaryDirectory() as folder:
    pipe.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    pipe.unet.unload_lora()
    editor = Editor(pipe)
    make_fast(editor, "", folder)
pipe.unload_lora_weights()
asked = []
hook = pipe.unet.register_forward_pre_hook(lambda unet, inputs: asked.append(len(inputs[0])))
edited = editor(Image.new("RGB", (300, 200), "orange"), INSTRUCTION)
hook.remove()
fused = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight
done["fast"] = [*edited.size, asked, not torch.equal(plain, fused)]

pipe.unet.requires_grad_(True)
done["train"] = train(pipe)
done["gigabytes"] = peak(torch.device("cpu"))
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
