"""How Sphinx builds the site: `make docs`, from this repository as it is, into build/site.

The source folder is the repository, so that README.md, docs/ and the studies stay plain Markdown, whose links hold on
the site and where the repository is read. Nothing is fetched, neither by the build nor by the pages.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import navigation  # noqa: E402

from fedveil import __version__  # noqa: E402

# The notebook runs under this very Python: a kernel of that name that somebody has installed may be another's.
os.environ["JUPYTER_PATH"] = str(HERE / "jupyter")

project, author, release = "fedveil", "the fedveil contributors", __version__
project_copyright = "the fedveil contributors, Apache License 2.0"
language = "en_GB"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "navigation", "reference", "docstrings", "names",
              "links"]  # fmt: skip
root_doc = navigation.HOME
include_patterns = [*navigation.PATTERNS, "docs/reference/*"]
exclude_patterns = [".*", "build", "dist", "runs", "tests", "platform", "clients", "strategies", "configs"]

# Markdown as the usual hosts read it.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
myst_enable_extensions: list[str] = []
myst_heading_anchors = 4

# The notebook runs at every build, in a folder of its own; an error is the build's.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

# The reference: what has a docstring and no underscore, in the order of its file.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype, napoleon_use_ivar, napoleon_attr_annotations = False, True, False
add_module_names = False
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
default_role = "known"
nitpicky = True

# The look.
html_theme = "furo"
html_title = "fedveil"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/mark.svg"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_logo": "wordmark.svg",
    "dark_logo": "wordmark-dark.svg",
    "sidebar_hide_name": True,
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#005A8F", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#7CC4F0", "color-brand-content": "#56B4E9"},
}
pygments_style, pygments_dark_style = "friendly", "github-dark"
