"""Settings of the static site (`make site`), read by Sphinx."""

project, author, language = "ip2p", "the ip2p authors", "en"
html_title = "InstructPix2Pix, run by yourself"
html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
extensions = ["myst_nb"]
exclude_patterns = ["conf.py"]
nb_execution_mode = "off"  # the notebooks come executed
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_show_copyright = False
