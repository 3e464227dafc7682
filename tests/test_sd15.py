"""The profile sd15 through the same code: Stable Diffusion 1.5's true architecture, random weights.

Run in a process of its own, because its peak memory is asserted.
"""

import json
import subprocess
import sys

JOB = """
import json, torch
from ip2p.study.true_size import edit, paint, peak, train, true_pipe

pipe = true_pipe(256)
done = {"parameters": sum(p.numel() for p in pipe.unet.parameters())}
first, second = paint(pipe)
done["pair"] = [*first.shape, bool(first.isfinite().all() and second.isfinite().all())]
done["edit"] = list(edit(pipe).size)
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
        "train": [True, True],
    }
