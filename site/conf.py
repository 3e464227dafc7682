"""Settings of the static site (`make site`), read by Sphinx."""

import re

from docutils import nodes

from ip2p.teaching.formulas import mathml

project = "ip2p"
author = "the ip2p authors"
language = "en"
html_title = "InstructPix2Pix, run by yourself"
html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["conf.py"]

extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"  # the notebooks come executed
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# The reference (reference/*.md), from docstrings.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_use_legacy_class_based = False
add_module_names = False
python_maximum_signature_line_length = 80


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code` in backticks: what else would be markup is escaped."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    lines[:] = []
    for paragraph in paragraphs:
        for item in re.split(r"\n(?=\s*- )", paragraph):
            text = " ".join(item.split())
            pieces = re.split(r"`([^`]+)`", text)
            plain = [re.sub(r"([*|_\\])", r"\\\1", piece) for piece in pieces[0::2]]
            code = [f"``{piece}``\\ " for piece in pieces[1::2]]
            lines.append("".join(a + b for a, b in zip(plain, [*code, ""], strict=True)))
        lines.append("")


def skip_field_numbers(app, what, name, obj, skip, options):
    """Named tuples say "Alias for field number 0" of their fields, which stand in the signature."""
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def visit_formula(translator, node):
    """Formulas are MathML, so that no page needs a script from the network for them."""
    display = isinstance(node, nodes.math_block)
    element = mathml(node.astext(), display)
    translator.body.append(f'<div class="math" tabindex="0">{element}</div>' if display else element)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_formula, None), (visit_formula, None))
    app.connect("autodoc-skip-member", skip_field_numbers)
    app.connect("autodoc-process-docstring", as_restructured_text)
