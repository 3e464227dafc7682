"""The explorer as a reader meets it: notebook 05 in JupyterLab, in a real browser. Screenshots:
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
from conftest import PICTURES

from ip2p.teaching.notebook_files import NOTEBOOKS, read

NOTEBOOK = NOTEBOOKS / "05_guided_editing.ipynb"
SMALL = {"EDITS": 4, "CURVE_STEPS": 4}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over a folder with a copy of notebook 05; yields its address for a file name."""
    import nbformat

    folder = tmp_path_factory.mktemp("lab")
    notebook = read(NOTEBOOK)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    cell.source += "".join(f"\n{name} = {value}" for name, value in ({"OUT": "'out'"} | SMALL).items())
    nbformat.write(notebook, folder / NOTEBOOK.name)
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


def test_the_explorer_in_jupyterlab(lab, page):
    address, folder = lab
    page.goto(address(NOTEBOOK.name))
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=90_000)
    page.get_by_text("Python 3 (ipykernel)").first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    after = page.locator("img.widget-image").nth(1)
    message = page.locator(".widget-html").filter(has_text="Move a slider").first
    message.wait_for(timeout=300_000)
    page.get_by_text("Direction over s_T:").last.wait_for(timeout=300_000)  # the last cell has run
    sources = [after.get_attribute("src")]

    def changed():
        """Wait until another picture is finished; its address is remembered."""
        page.wait_for_function(
            """known => {
            const image = document.querySelectorAll("img.widget-image")[1];
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
