"""The static site: links that lead somewhere, search, and a phone's width.

Screenshots: out/browser/site-*.png. The site is built here from the notebooks as they are, not executed,
which takes seconds; `make site` builds it from executed ones.
"""

import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from conftest import PICTURES

from ip2p.teaching.notebook_files import NOTEBOOKS
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
    assert {"glossary.html", "README.html", "data/README.html"} <= set(links)


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
