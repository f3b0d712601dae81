# Read by Sphinx from the folder that build.py prepares. Nothing comes from the network.
import re

from docutils.nodes import SkipNode
from fastcore.docments import docments
from latex2mathml.converter import convert

project = "lgermt"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # tables that a cell makes
myst_enable_extensions = ["dollarmath", "amsmath"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["course.js"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
myst_heading_anchors = 4
html_math_renderer = "mathml"
html_title = "lgermt"
html_show_copyright = False
autodoc_member_order = "bysource"
suppress_warnings = [
    "myst",
    "docutils",
    "ref",
    "autodoc",
    "mystnb",
    "toc",
    "misc.highlighting_failure",
    "image",
]
nb_mime_priority_overrides = [("html", "text/html", 0)]


def formula(writer, node):
    "A formula as MathML, which browsers draw without a script."
    display = "inline" if node.tagname == "math" else "block"
    try:
        writer.body.append(convert(node.astext(), display=display))
    except Exception:  # what the converter cannot read stays readable
        writer.body.append(f"<code>{writer.encode(node.astext())}</code>")
    raise SkipNode


def arguments(app, what, name, symbol, options, lines):
    "The comments beside arguments and result of a signature, under the docstring."
    if what not in ("function", "method", "class"):
        return
    try:
        said = docments(symbol, returns=True)
    except (TypeError, ValueError, OSError, SyntaxError):  # no source to read
        return
    rows = [
        f":{'returns' if name == 'return' else f'param {name}'}: " + " ".join(text.split())
        for name, text in said.items()
        if text
    ]
    lines += ["", *rows] if rows else []
    lines[:] = [re.sub(r"([*|])", r"\\\1", line) for line in lines]  # stars and bars as they are


def setup(app):
    app.connect("autodoc-process-docstring", arguments)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
