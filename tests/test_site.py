"""The static site, and the pages of executed notebooks: links that lead somewhere, search, formulas without
a network, a phone's width, and nothing that axe-core calls a serious violation.

Screenshots: out/browser/site-*.png. The site is built here from the notebooks as they are, not executed,
which takes seconds; `make site` builds it from executed ones.
"""

import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import PICTURES

from ip2p.teaching.notebook_files import NOTEBOOKS
from ip2p.teaching.pages import write_index, write_page
from ip2p.teaching.site import build_site


class Page(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.fixture(scope="module")
def first_page(tmp_path_factory):
    return build_site(tmp_path_factory.mktemp("site"), NOTEBOOKS)


def test_a_site_is_not_made_in_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file/site cannot be written; choose another folder"):
        build_site(tmp_path / "file", NOTEBOOKS)


def test_the_reference_has_the_docstrings_of_the_stages(first_page):
    for name, said in {"editing": "Eq. 3 of InstructPix2Pix", "shards": "read_pairs"}.items():
        assert said in (first_page.parent / "reference" / f"{name}.html").read_text(encoding="utf-8")


def test_every_link_leads_somewhere(first_page):
    pages = {path.resolve(): Page(path) for path in first_page.parent.rglob("*.html")}
    assert len(pages) > 15
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:|//", link):  # of the web, or data
                continue
            address, _, anchor = unquote(link).partition("#")
            target = (path.parent / address.partition("?")[0]).resolve() if address else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{path.name}: {link}"


def test_every_notebook_and_the_glossary_are_in_the_navigation(first_page):
    links = Page(first_page).links
    assert {f"notebooks/{path.stem}.html" for path in NOTEBOOKS.glob("*.ipynb")} <= set(links)
    assert {"glossary.html", "README.html", "docs/benchmarks.html", "data/README.html"} <= set(links)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The index of pages such as `make run` leaves, of two notebooks that were not executed."""
    out = tmp_path_factory.mktemp("pages")
    for name in ("01_instruction_generation", "05_guided_editing"):
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", out)
        write_page(out / f"{name}.ipynb", NOTEBOOKS)
    return write_index(out)


@pytest.fixture
def offline(page):
    """A page in a browser whose network is cut; what it asked the network for."""
    asked = []
    page.context.set_offline(True)
    page.on("request", lambda request: asked.append(request.url))
    yield page, asked
    page.context.set_offline(False)


# What a reader sees but for code, in which a $ may stand.
READ = """() => {
    const page = document.body.cloneNode(true);
    page.querySelectorAll("pre, code, script, style").forEach(part => part.remove());
    return page.textContent;
}"""


def test_without_a_network_no_page_shows_a_formulas_source(first_page, index, offline):
    page, asked = offline
    formulas = 0
    for path in [*first_page.parent.rglob("*.html"), *index.parent.glob("*.html")]:
        page.goto(path.as_uri(), wait_until="load")
        assert "$" not in page.evaluate(READ), f"{path.name} shows the source of a formula"
        formulas += page.locator("math").count()
    assert formulas > 100
    assert page.locator("math").first.bounding_box()["height"] > 5, "drawn"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def serious(page) -> list[str]:
    """What axe-core finds on a page that keeps some readers out."""
    found = []
    for violation in Axe().run(page).response["violations"]:
        if violation["impact"] in ("serious", "critical"):
            found += [f"{violation['id']}: {node['html'][:200]}" for node in violation["nodes"]]
    return found


@pytest.mark.parametrize("width", [1100, 390])
def test_nothing_keeps_readers_out(first_page, index, page, width):
    page.set_viewport_size({"width": width, "height": 844})
    site = first_page.parent
    names = (
        "README",
        "glossary",
        "docs/benchmarks",
        "docs/teaching",
        "reference/editing",
        "notebooks/05_guided_editing",
    )
    for path in [first_page, *(site / f"{name}.html" for name in names), index]:
        page.goto(path.as_uri())
        assert serious(page) == [], path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
    page.screenshot(path=PICTURES / f"index-{width}.png")


def test_search_and_a_phones_width(first_page, page):
    page.goto(f"{(first_page.parent / 'search.html').as_uri()}?q=directional")
    page.locator("ul.search li").first.wait_for(timeout=20_000)
    page.screenshot(path=PICTURES / "site-search.png")
    page.set_viewport_size({"width": 390, "height": 844})
    for path in sorted(first_page.parent.rglob("*.html")):
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, (
            f"{path.name} is wider than a phone"
        )
    page.goto(
        (first_page.parent / "notebooks" / "05_guided_editing.html").as_uri(), wait_until="domcontentloaded"
    )
    page.screenshot(path=PICTURES / "site-phone.png")
