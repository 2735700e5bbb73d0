"""Sphinx builds README, guides and reference into one site: ``make docs``.

The repository's top is the source directory, so that links between README, guides and examples
are the same here and where the repository is read in a browser.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel
from sphinx.application import Sphinx

import imac_torch

ROOT = Path(__file__).resolve().parents[1]

project = "imac_torch"
author = "The imac_torch authors"
copyright = author
version = release = imac_torch.__version__

root_doc = "README"
include_patterns = [
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "docs/api/*.rst",
    "docs/tutorials/*.ipynb",
]
exclude_patterns = ["docs/_build", ".*", "runs", "build", "dist"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
# Notebooks are kept without outputs and run here; again only when they change.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
html_theme = "furo"
html_title = f"imac_torch {version}"
html_copy_source = False
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
python_use_unqualified_type_names = True


def navigation(app: Sphinx, document: str, source: list[str]) -> None:
    """Give README the site's table of contents: the pages that the index links, in its order."""
    if document != root_doc:
        return
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    guides, _, reference = index.partition("## Reference")
    for caption, pages in {
        "Guides": ["docs/index", *linked(guides)],
        "Reference": linked(reference),
        "Project": ["CHANGELOG", "CONTRIBUTING", "SECURITY"],
    }.items():
        entries = "\n".join(f"/{page}" for page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def linked(text: str) -> list[str]:
    """Pages of docs that a text links, in its order."""
    return [f"docs/{page}" for page in re.findall(r"\]\(([\w/]+)\.(?:md|rst|ipynb)\)", text)]


def keep_sentences(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """What stands before a colon in the text of a property is no type, whatever Google writes."""
    if what in {"attribute", "property", "data"} and lines:
        lines[0] = re.sub(r"(?<!:): ", " – ", lines[0], count=1)


def describe_fields(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """List the fields of a configuration section with defaults and descriptions."""
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        return
    for field, info in found.model_fields.items():
        value = info.get_default(call_default_factory=True)
        section = isinstance(value, BaseModel)
        default = f":class:`{type(value).__name__}`" if section else f"``{value!r}``"
        lines += ["", f"``{field}`` ({default})", f"    {info.description or ''}"]


def shorten_signature(
    app: Sphinx, what: str, name: str, found: object, *others: object
) -> tuple[str, None] | None:
    """All fields of a section in its signature would only repeat the list."""
    section = isinstance(found, type) and issubclass(found, BaseModel)
    return ("(**fields)", None) if section else None


def leave_out_fields(
    app: Sphinx, what: str, name: str, found: object, skip: bool, options: object
) -> bool | None:
    """Fields are in the list above; pydantic's own attributes are of no use to readers."""
    return True if name in {"model_config", "model_fields", "model_computed_fields"} else None


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("source-read", navigation)
    app.connect("autodoc-process-docstring", keep_sentences, priority=1)  # before napoleon
    app.connect("autodoc-process-docstring", describe_fields)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", leave_out_fields)
