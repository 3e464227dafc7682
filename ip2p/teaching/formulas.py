"""Formulas as MathML, which browsers draw without a script: pages and the site need no network for them."""

from __future__ import annotations

import html

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# What the converter leaves as it finds it, and the character that is meant.
LEFT = {
    ' xmlns="http://www.w3.org/1998/Math/MathML"': "",  # of XML; in HTML a heading would garble it
    "\\textbackslash&#x000A0;": "&#92;",
    "\\#": "#",
    "\\%": "%",
    "\\lVert": "&#x2016;",
    "\\rVert": "&#x2016;",
}


def mathml(tex: str, display: bool = False) -> str:
    """A formula as a <math> element, on a line of its own if `display`.

    Raises ValueError for TeX that cannot be converted, such as an unknown command.
    """
    tex = " ".join(tex.split())
    try:
        element = convert(tex, display="block" if display else "inline")
    except Exception as error:  # each of the converter's has a class of its own
        raise ValueError(f"the formula {tex} cannot be converted ({type(error).__name__})") from error
    for left, meant in LEFT.items():
        element = element.replace(left, meant)
    if "\\" in element:
        raise ValueError(f"the formula {tex} holds a command that cannot be converted")
    return element


class Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML; one that cannot be converted is shown as source."""

    def formula(self, tex: str, display: bool) -> str:
        try:
            return mathml(tex, display)
        except ValueError:
            return f"<code>{html.escape(tex)}</code>"

    def inline_math(self, body: str) -> str:
        return self.formula(body, display=False)

    def block_math(self, body: str) -> str:
        return self.formula(body, display=True)


class OfflineExporter(HTMLExporter):
    """A notebook as one HTML file that fetches nothing: no script for formulas, diagrams or widgets."""

    raw_template = """
{%- extends 'index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """As the base class has it, with our renderer."""
        cell = context.get("cell", {})
        metadata = context.get("resources", {}).get("metadata", {})
        renderer = Renderer(
            escape=False,
            attachments=cell.get("attachments", {}),
            embed_images=self.embed_images,
            path=metadata.get("path", ""),
            anchor_link_text=self.anchor_link_text,
            exclude_anchor_links=self.exclude_anchor_links,
            **self.lexer_options,
        )
        return MarkdownWithMath(renderer=renderer).render(source)
