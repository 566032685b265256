"""Settings of the site; `make docs` builds it."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

import reference  # noqa: E402

import pnp_mlpatch  # noqa: E402

project = "pnp_mlpatch"
copyright = "the pnp_mlpatch developers"
version = release = pnp_mlpatch.__version__
repository = "https://github.com/pnp-mlpatch/pnp_mlpatch"

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["config.cache"]  # a function in sphinx_gallery_conf

autosummary_generate = False
autodoc_typehints = "none"  # the docstrings say it, with shapes and units
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# the inventories are fetched only where there is a network
online = {
    "torch": "https://docs.pytorch.org/docs/stable",
    "numpy": "https://numpy.org/doc/stable",
    "deepinv": "https://deepinv.github.io/deepinv",
    "odl": "https://odl.readthedocs.io/en/latest",
    "python": "https://docs.python.org/3",
}
intersphinx_mapping = (
    {name: (address, None) for name, address in online.items()} if os.environ.get("ONLINE") else {}
)

html_theme = "pydata_sphinx_theme"
html_title = "pnp_mlpatch"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_theme_options = {
    "github_url": repository,
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc", "sg_download_links"],
}
html_sidebars = {"index": []}

PICTURES = Path(tempfile.mkdtemp(prefix="gallery-"))


def pictures(block, block_vars, gallery_conf):
    """Show the PNG files that a block of an example has written."""
    from sphinx_gallery.scrapers import figure_rst

    found = []
    for path in sorted(PICTURES.glob("*.png"), key=lambda p: p.stat().st_mtime):
        place = Path(next(block_vars["image_path_iterator"]))
        place.write_bytes(path.read_bytes())
        path.unlink()
        found.append(str(place))
    return figure_rst(found, gallery_conf["src_dir"])


def arguments(gallery_conf, script_vars):
    """Give the options of an example; QUICK=1 builds the site with small ones."""
    return ["--out", str(PICTURES), *(["--quick"] if os.environ.get("QUICK") else [])]


sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "image_scrapers": (pictures,),
    "reset_argv": arguments,
    "capture_repr": (),
    "within_subsection_order": reference.Order,
    "first_notebook_cell": "%matplotlib inline",
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
    "abort_on_example_error": True,
    "reference_url": {"pnp_mlpatch": None},
    "write_computation_times": False,
}


def outside(app, docname, source):
    """Turn links to files outside the site into links to the repository."""
    text = source[0].replace("](../examples/gallery)", "](gallery/index.rst)")
    text = re.sub(
        r"\]\(\.\./([^)]+)\)", lambda found: f"]({repository}/blob/main/{found[1]})", text
    )
    source[0] = text


def setup(app):
    """Register what the pages need."""
    app.connect("source-read", outside)
    app.connect("builder-inited", lambda app: reference.write(HERE / "api"))
