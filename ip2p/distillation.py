"""Beyond the paper: teach an editor to say in one prediction what takes three, and to need few steps.

An edit of the teacher's by Eq. 3, without noise on the way, is a function of where it begins, z_T, of the
picture, the instruction and both guidance scales. Its student learns to say the end z_0 of such an edit from
any state z_t on its way:

    L = E || x0_theta(z_t, t, E(c_I), c_T, s_T, s_I) - z_0 ||^2

That is regression on the teacher's endpoints (Luhman and Luhman, arXiv 2101.02388), with the guidance scale
as an input as Meng et al. have it (arXiv 2210.03142); here there are two. The student predicts
v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans and Ho, arXiv 2202.00512): from pure noise, where
alpha_bar is nearly 0, x0 cannot be told from a prediction of eps.

It edits as consistency models do (Song et al., arXiv 2303.01469, algorithm 1; diffusers' LCMScheduler): say
the end, add new noise to it, less each time, and say the end again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open
from tqdm.auto import tqdm

from ip2p.common.devices import choose_training_dtype, mixed_precision
from ip2p.common.diffusion import embed, seeded, starting_latents, to_x0
from ip2p.common.durable import locked, name_of_model, remove_unfinished, save_tensors, write_atomically
from ip2p.common.train_loop import LoopOptions, step_generator, train_loop
from ip2p.dataset.shards import read_pairs
from ip2p.editing import Editor, load_editor
from ip2p.fast import FAST, STUDENT_PREDICTS, DistillOptions, scale_features
from ip2p.profiles import Profile, get_profile
from ip2p.training import checksum_of_pairs, same_run

SCALE_FEATURES = 128  # of both scales together, the student's `time_cond_proj_dim`

# ------------------------------------------------------------------------------------ the teacher's edits


class Recordings:
    """Edits of the teacher's on the disk, `PART` in a file: where they begin, which states they pass, where
    they end. Stopped at any moment, it goes on with the next file.

    rows: pairs, of which pictures and instructions are taken at random; so are scales and noise."""

    PART = 32

    def __init__(self, teacher: Editor, rows: list[dict], folder: Path, options: DistillOptions):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder, "*.safetensors")
        self.teacher = noiseless(teacher)
        self.rows, self.options = rows, options
        self.files = []
        for part in tqdm(range(math.ceil(options.edits / self.PART)), desc="edits of the teacher", delay=2):
            path = folder / f"{part:08}.safetensors"
            if not path.exists():
                save_tensors(self.record(part), path)
            self.files.append(safe_open(path, "pt"))

    def record(self, part: int) -> dict[str, torch.Tensor]:
        """source: E(c_I); text: features of the instruction; s_t, s_i; states: z before each step, (n, steps,
        c, h, w); end: z_0; t: the timesteps (steps,)."""
        o = self.options
        generator = step_generator(o.seed, part)
        chosen = torch.randint(len(self.rows), (self.PART,), generator=generator).tolist()
        images = [self.rows[number]["original_image"] for number in chosen]
        instructions = [self.rows[number]["edit_prompt"] for number in chosen]
        scales = []
        for low, high in (o.guidance_scale, o.image_guidance_scale):
            scales.append(low + (high - low) * torch.rand(self.PART, generator=generator))
        seeds = torch.randint(2**62, (self.PART,), generator=generator).tolist()
        s_t, s_i = scales
        source = self.teacher.encode(images)
        scheduler = self.teacher.pipe.scheduler
        states = [starting_latents(scheduler, source.shape[1:], seeded(seeds), source.device)]
        timesteps = []
        for step in self.teacher.sample(
            images,
            instructions,
            guidance_scale=s_t,
            image_guidance_scale=s_i,
            num_inference_steps=o.teacher_steps,
            seeds=seeds,
        ):
            states.append(step.z)
            timesteps.append(step.t)
        *before, end = states
        return {
            "source": source.cpu(),
            "text": embed(self.teacher.pipe, instructions).cpu(),
            "s_t": s_t,
            "s_i": s_i,
            "states": torch.stack(before, 1).half().cpu(),
            "end": end.half().cpu(),
            "t": torch.tensor(timesteps),
        }

    def batch(self, n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """n states of edits, both at random; as `record`, but "z" and "t", (n,), instead of "states"."""
        edits = torch.randint(self.PART * len(self.files), (n,), generator=generator).tolist()
        steps = torch.randint(self.options.teacher_steps, (n,), generator=generator).tolist()
        samples = [self.read(edit, step) for edit, step in zip(edits, steps, strict=True)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def read(self, edit: int, step: int) -> dict[str, torch.Tensor]:
        file = self.files[edit // self.PART]
        row = edit % self.PART
        sample = {name: file.get_slice(name)[row] for name in ("source", "text", "s_t", "s_i", "end")}
        sample["z"] = file.get_slice("states")[row, step]
        sample["t"] = file.get_slice("t")[step]
        return sample


def noiseless(teacher: Editor) -> Editor:
    """The same editor with DDIM (arXiv 2010.02502), whose edits depend on z_T alone, from pure noise on."""
    components = dict(teacher.pipe.components)
    config = components["scheduler"].config
    components["scheduler"] = DDIMScheduler.from_config(
        config, timestep_spacing="trailing", clip_sample=False, rescale_betas_zero_snr=False
    )
    return Editor(type(teacher.pipe)(**components, requires_safety_checker=False), *teacher.defaults)


# ------------------------------------------------------------------------------------ the student


def new_student(unet) -> UNet2DConditionModel:
    """A copy of the teacher's UNet that takes features of both scales as `timestep_cond`. Their weights are 0
    at first."""
    student = UNet2DConditionModel.from_config(dict(unet.config) | {"time_cond_proj_dim": SCALE_FEATURES})
    missing, _ = student.load_state_dict(unet.state_dict(), strict=False)
    (new,) = missing
    torch.nn.init.zeros_(student.get_parameter(new))
    return student.to(unet.device)


def distillation_loss(student, alpha_bar: torch.Tensor, batch: dict, ranges: tuple) -> torch.Tensor:
    """Mean squared distance of the ends that the student says from those of the teacher. alpha_bar: of all
    timesteps; batch: of `Recordings`; ranges: of both scales. Returns a scalar."""
    z, t = batch["z"].float(), batch["t"]
    cond = scale_features(batch["s_t"], batch["s_i"], ranges, SCALE_FEATURES).to(z.device)
    said = student(torch.cat([z, batch["source"]], 1), t, batch["text"], timestep_cond=cond).sample.float()
    x0 = to_x0(said, z, alpha_bar[t.long()][:, None, None, None], STUDENT_PREDICTS)
    return F.mse_loss(x0, batch["end"].float())


def distill(
    model: str | Path,
    out: str | Path,
    profile: str | Profile = "mini",
    *,
    pairs: str | Path | list[dict] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **options,
) -> list[dict]:
    """Teach a student of the editor in the folder `model`, and save it as OUT/unet_fast beside the editor's
    own parts; `load_editor(OUT, fast=True)` loads it. OUT may be `model` itself.

    pairs: whose pictures and instructions are edited (a folder or rows; None: the profile's). An interrupted
    run goes on; one with other settings is a ValueError. device, dtype: see `choose_device` and
    `choose_training_dtype`. options: of `DistillOptions`. Returns the log of `train_loop`."""
    profile = get_profile(profile)
    o = DistillOptions.of(profile, **options)
    dtype = choose_training_dtype(profile.dtype if dtype is None else dtype)
    teacher = load_editor(str(model), device, "float32", profile)
    rows = pairs if isinstance(pairs, list) else read_pairs(pairs or profile.pairs)
    if not rows:
        raise ValueError("there are no pairs whose pictures could be edited; make some with `ip2p pairs`")
    out = Path(out)
    work = out / "work-fast"
    ours = out.resolve() == Path(model).resolve() or (work / "settings.json").exists()
    if (out / "model_index.json").exists() and not ours:
        raise ValueError(f"{out} holds another model; choose another folder, or {model} itself")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "distilling in"):
        settings = o.identity() | {"model": name_of_model(model), "pairs": checksum_of_pairs(rows)}
        settings |= {"dtype": str(dtype).removeprefix("torch.")}
        same_run(work, settings, done=out / FAST / "config.json")
        recordings = Recordings(teacher, rows, work / "cache", o)
        student = new_student(teacher.pipe.unet)
        log = learn(student, recordings, work, o, dtype)
        save(student, teacher, out, o)
    return log


def learn(
    student, recordings: Recordings, work: Path, options: DistillOptions, dtype: torch.dtype
) -> list[dict]:
    pipe = recordings.teacher.pipe
    alpha_bar = pipe.scheduler.alphas_cumprod.float().to(pipe.device)
    ranges = options.guidance_scale, options.image_guidance_scale

    def step_loss(model, generator, step):
        batch = {name: x.to(pipe.device) for name, x in recordings.batch(options.batch, generator).items()}
        with mixed_precision(pipe.device, dtype):
            return distillation_loss(model, alpha_bar, batch, ranges)

    return train_loop(
        step_loss,
        student,
        work,
        desc="distilling",
        ema_decay=0.999,
        decay=0.5,
        warmup=min(100, max(1, options.steps // 10)),
        **options.shared_with(LoopOptions),
    )


def save(student, teacher: Editor, out: Path, options: DistillOptions) -> None:
    if not (out / "model_index.json").exists():
        teacher.pipe.save_pretrained(out)
    student.save_pretrained(out / FAST)
    about = {
        "steps": options.student_steps,
        "guidance_scale": options.guidance_scale,
        "image_guidance_scale": options.image_guidance_scale,
    }
    write_atomically(out / FAST / "distilled.json", json.dumps(about, indent=1))
