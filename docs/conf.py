"""Settings of Sphinx, which builds these pages: `make docs`."""

import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import d2kd  # noqa: E402

project, release, copyright = "d2kd", d2kd.__version__, "the d2kd authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme, html_title, html_show_sphinx = "furo", "d2kd", False
html_math_renderer = "mathml"
html_static_path, html_css_files = ["_static"], ["formulas.css"]
highlight_language = "text"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings write `name` as Markdown does
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a NamedTuple are members too
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True

# Files beside docs/ that have a page here, which includes them.
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "datasets/README.md": "guide/datasets.md",
    "CONTRIBUTING.md": "contributing.md",
}
FORMULA_SIGNS = re.compile(r"(`[^`]*`)|([|*\\])|(?<=\w)(_)(?=\W|$)")


def link_to_pages(app, docname, source):
    """Links to the files of PAGES lead to their pages."""
    up = "../" * docname.count("/")
    for name, page in PAGES.items():
        source[0] = source[0].replace(f"]({up}../{name}", f"]({up}{page}")


def escape_formulas(app, kind, name, thing, options, lines):
    """|x|, a * b and x_ are formulas in docstrings, and markup in reStructuredText."""
    for i, line in enumerate(lines):
        lines[i] = FORMULA_SIGNS.sub(lambda m: m[1] or "\\" + (m[2] or m[3]), line)


def visit_math(self, node):
    self.body.append(convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def visit_math_block(self, node):
    self.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app):
    app.connect("source-read", link_to_pages)
    app.connect("autodoc-process-docstring", escape_formulas, priority=100)  # before napoleon
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
