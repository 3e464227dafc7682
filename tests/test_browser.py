"""The explorer and a quiz as a reader meets them: in JupyterLab, in a real browser. Screenshots:
out/browser/*.png.

Needs Chromium or Chrome: `apt-get install chromium` on Debian. Without one the test is skipped, except
where CI is set."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import PICTURES

from ip2p.teaching.notebook_files import NOTEBOOKS, read
from ip2p.teaching.quiz import load_quiz

NOTEBOOK = NOTEBOOKS / "05_guided_editing.ipynb"


SKETCHING = """
from ip2p import load_editor
from ip2p.paths import DATA
from ip2p.teaching.explorer import EditExplorer
EditExplorer(load_editor("mini", fast=True), DATA / "images" / "cat.png", "make it night")
"""


def assert_open_to_all(page, widget: str) -> None:
    """Axe finds no serious fault in a widget (a CSS selector), and it is not wider than a phone; leaves it
    that narrow."""
    found = []
    for violation in Axe().run(page, context=widget).response["violations"]:
        if violation["impact"] in ("serious", "critical"):
            found += [f"{violation['id']}: {node['html'][:200]}" for node in violation["nodes"]]
    assert found == []
    narrow = """box => { box.style.width = "340px"; return box.scrollWidth; }"""
    assert page.locator(widget).first.evaluate(narrow) <= 340, "wider than a phone"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over a folder with what notebook 05 needs for its explorer and, alone, its quiz; yields its
    address for a file name."""
    import nbformat

    folder = tmp_path_factory.mktemp("lab")
    notebook = read(NOTEBOOK)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source += "\nOUT = 'out'"
    *_, quiz = code
    assert "parameters" in code[0].metadata["tags"] and "Quiz(" in quiz.source
    notebook.cells = code[:3] + [cell for cell in code if "EditExplorer(" in cell.source]
    nbformat.write(notebook, folder / NOTEBOOK.name)
    notebook.cells = [quiz]
    nbformat.write(notebook, folder / "quiz.ipynb")
    sketch = nbformat.v4.new_code_cell(SKETCHING)
    nbformat.write(
        nbformat.v4.new_notebook(cells=[sketch], metadata=notebook.metadata), folder / "fast.ipynb"
    )
    (folder / "broken.png").write_bytes(b"this is no picture")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                f"--port={port}",
                "--ip=127.0.0.1",
                "--IdentityProvider.token=secret",
                f"--ServerApp.root_dir={folder}",
                "--ServerApp.port_retries=0",
            ],
            stdout=log,
            stderr=log,
            env=os.environ | settings,
        )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=secret", timeout=5)
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (folder / "lab.log").read_text()
                time.sleep(0.3)
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token=secret&reset", folder
    finally:
        server.terminate()
        server.wait(20)


def open_and_run(page, address: str) -> None:
    """Open a notebook, and begin to run all of its cells."""
    page.goto(address)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=90_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def test_a_quiz_by_keyboard_alone(lab, page):
    """Tab goes from option to option and to the button, the space bar chooses and presses."""
    address, _ = lab
    open_and_run(page, address("quiz.ipynb"))
    quiz = page.locator(".ip2p-quiz")
    quiz.get_by_text("Score:").wait_for(timeout=120_000)
    right = load_quiz("05")[0].right
    radios = quiz.locator("input[type=radio]")

    def answer(place):
        """Choose an option of the first question, and check it."""
        radios.nth(0).focus()
        for _ in range(place):
            page.keyboard.press("Tab")
        page.keyboard.press("Space")
        for _ in range(4 - place):
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Check"
        page.keyboard.press("Space")

    answer((right + 1) % 4)
    quiz.get_by_text("Read again: “").first.wait_for(timeout=20_000)
    answer(right)
    quiz.get_by_text("1 of 10 right, 0 at the first try").wait_for(timeout=20_000)
    page.screenshot(path=PICTURES / "quiz.png")
    assert_open_to_all(page, ".ip2p-quiz")
    page.screenshot(path=PICTURES / "quiz-narrow.png")


@pytest.fixture(scope="module")
def explorer(lab, page):
    """The page with notebook 05's explorer, and the folder that JupyterLab shows."""
    address, folder = lab
    open_and_run(page, address(NOTEBOOK.name))
    message = page.locator(".widget-html").filter(has_text="Move a slider").first
    message.wait_for(timeout=900_000)
    return page, folder


def test_the_explorer_in_jupyterlab(explorer):
    page, folder = explorer
    after = page.locator("img.widget-image").nth(2)  # 0: the input, 1: the sketch
    sources = [after.get_attribute("src")]

    def changed():
        """Wait until another picture is finished; its address is remembered."""
        page.wait_for_function(
            """known => {
            const image = document.querySelectorAll("img.widget-image")[2];
            return !known.includes(image.src) && [...document.querySelectorAll(".widget-html")].some(
                x => x.innerText.startsWith("Done"));
        }""",
            arg=sources,
            timeout=60_000,
        )
        page.wait_for_timeout(300)
        sources.append(after.get_attribute("src"))

    def picture(name):
        page.screenshot(path=PICTURES / f"{name}.png")

    after.scroll_into_view_if_needed()
    picture("1-opened")
    top = after.bounding_box()["y"]
    handle = page.get_by_role("slider").nth(1)  # 0: before | after, 1: s_T
    value = float(handle.get_attribute("aria-valuenow"))
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + box["height"] / 2, steps=12)
    picture("2-while-dragging")
    page.mouse.up()
    changed()
    picture("3-s_T-dragged")
    assert float(handle.get_attribute("aria-valuenow")) > value

    handle.press("ArrowLeft")  # by keyboard, too
    changed()

    text = page.get_by_label("instruction (c_T)")
    text.fill("give the cat a hat")
    text.press("Enter")
    changed()
    picture("4-another-instruction")

    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload a picture").click()
    chooser.value.set_files(folder / "broken.png")
    page.get_by_text("Broken.png cannot be read as an image").wait_for(timeout=20_000)
    picture("5-broken-upload")
    assert after.get_attribute("src") is not None and after.bounding_box()["y"] == top, "the layout jumped"


COUNT_SKETCHES = """() => {
    window.sketches = new Set();
    const sketch = document.querySelectorAll("img.widget-image")[1];
    new MutationObserver(() => window.sketches.add(sketch.src)).observe(sketch, {attributeFilter: ["src"]});
}"""


def test_a_sketch_follows_the_slider_while_it_is_dragged(lab, page):
    """With the fast editor; let go, and the full editor paints the last value."""
    address, _ = lab
    open_and_run(page, address("fast.ipynb"))
    page.get_by_text("Done. Move a slider").first.wait_for(timeout=120_000)
    handle = page.get_by_role("slider").nth(1)
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 120, box["y"] + box["height"] / 2)
    page.wait_for_timeout(1500)  # the kernel is warm
    page.evaluate(COUNT_SKETCHES)
    seconds = 2
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        share = (time.monotonic() - begin) / seconds
        page.mouse.move(box["x"] - 120 + 240 * share, box["y"] + box["height"] / 2)
        page.wait_for_timeout(20)
    sketches = page.evaluate("window.sketches.size")
    page.screenshot(path=PICTURES / "sketching.png")
    print(f"{sketches / seconds:.1f} pictures a second while the slider is dragged")
    assert sketches, "how many there are depends on what else runs here"
    page.mouse.up()
    page.get_by_text("Done. Move a slider").first.wait_for(timeout=60_000)
    page.screenshot(path=PICTURES / "sketched.png")


FOCUSED = """() => {
    const it = document.activeElement;
    const label = it.labels?.length ? it.labels[0].innerText : it.innerText;
    return {
        name: (it.getAttribute("aria-label") || label || "").trim(),
        seen: getComputedStyle(it).outlineStyle !== "none",
    };
}"""
CONTROLS = [
    "picture",
    "Upload a picture",
    "go on from",
    "where it may change",
    "before | after",
    "instruction (c_T)",
    "guidance_scale (s_T)",
    "image_guidance_scale (s_I)",
    "seed (of the noise)",
    "steps (of denoising)",
    "Edit",
    "Edit further",
    "Undo",
    "Both scales",
    "Save",
    "The code that made this picture",
    "The same edit at 25 pairs of scales",
]


def test_the_explorer_by_keyboard_alone(explorer):
    """Tab reaches every control, in order, and shows where it is; keys do what the mouse does."""
    page, _ = explorer
    page.locator(".ip2p-explorer select").first.focus()

    def tab_to(name):
        for _ in range(40):
            focused = page.evaluate(FOCUSED)
            if focused["name"].startswith(name):
                assert focused["seen"], f"{name}: nothing shows that it has the focus"
                return
            page.keyboard.press("Tab")
        pytest.fail(f"the key Tab does not reach {name}")

    for name in CONTROLS:
        tab_to(name)
    code = page.locator(".ip2p-explorer textarea").first
    assert not code.is_visible()
    for _ in range(40):
        page.keyboard.press("Shift+Tab")
        if page.evaluate(FOCUSED)["name"].startswith("The code that made"):
            break
    page.keyboard.press("Enter")
    code.wait_for(state="visible", timeout=10_000)
    assert "load_editor(" in code.input_value()

    page.locator(".ip2p-explorer select").first.focus()
    tab_to("guidance_scale")
    page.keyboard.press("ArrowRight")
    page.get_by_text("Done. Move a slider").first.wait_for(timeout=60_000)
    tab_to("Undo")
    page.keyboard.press("Enter")
    page.get_by_text("Back to the edit before.").first.wait_for(timeout=20_000)


def test_nothing_keeps_readers_out_of_the_explorer(explorer):
    page, _ = explorer
    assert_open_to_all(page, ".ip2p-explorer")
    page.screenshot(path=PICTURES / "6-narrow.png")
