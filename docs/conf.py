"""How Sphinx makes the documentation: ``sphinx-build -W docs build/docs``."""

import html
import re
from importlib.metadata import version as version_of
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import fcnet.functional
from fcnet.config import schema

project = "fcnet"
version = release = version_of("fcnet")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
html_theme = "furo"
html_title = f"fcnet {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["fcnet.css"]
html_math_renderer = "mathml"
default_role = "py:obj"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "no-value": True, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
napoleon_custom_sections = ["Source"]
napoleon_use_ivar = True

BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}


def _is_offered_above(app: object, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:  # noqa: ANN401, FBT001 - Sphinx's call
    """Leaves a function out of the module it is written in where `fcnet.functional` offers it."""
    home = getattr(obj, "__module__", None) or ""
    offered = name in fcnet.functional.__all__ and home.startswith("fcnet.functional.")
    return True if offered and "imported-members" not in options else None


def _is_section(name: str) -> bool:
    part = getattr(schema, name, None)
    return isinstance(part, type) and issubclass(part, schema.Section)


def _describe_setting(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Says of a configuration's setting what it is, its bounds and its default."""
    home, _, key = name.rpartition(".")
    module, _, section = home.rpartition(".")
    if what != "attribute" or module != "fcnet.config.schema" or not _is_section(section):
        return
    field = getattr(schema, section).model_fields[key]
    bounds = [
        f"{words} {getattr(rule, kind)}"
        for rule in field.metadata
        for kind, words in BOUNDS.items()
        if hasattr(rule, kind)
    ]
    default = [] if isinstance(field.default, schema.Section) else [f"default ``{field.default!r}``"]
    said = ", ".join(bounds + default)
    lines[:] = [field.description or "", "", f"{said[:1].upper()}{said[1:]}." if said else ""]


def _shorten_signature(app: object, what: str, name: str, *rest: object) -> tuple[str, str] | None:
    """Leaves out the arguments of a configuration's section, which are its settings."""
    return (
        ("", "")
        if what == "class" and name.startswith("fcnet.config.schema.") and _is_section(name.split(".")[-1])
        else None
    )


def _break_code_in_tables(app: object, document: nodes.document, page: str) -> None:
    """Lets long names in tables break after a dot, a slash, a colon or an underscore."""
    for table in document.findall(nodes.table):
        for literal in list(table.findall(nodes.literal)):
            text = re.sub(r"(?<=[./_])(?=\w)|(?<=::)", "<wbr>", html.escape(literal.astext()))
            code = f'<code class="docutils literal notranslate"><span class="pre">{text}</span></code>'
            literal.parent.replace(literal, nodes.raw("", code, format="html"))


def _write_inline_formula(writer: Any, node: nodes.math) -> None:  # noqa: ANN401 - Sphinx's HTML writer
    """Writes a formula in a line as MathML, which a browser shows without a script or a network."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _write_formula(writer: Any, node: nodes.math_block) -> None:  # noqa: ANN401 - Sphinx's HTML writer
    """Writes a formula of its own line as MathML."""
    formula = convert(node.astext(), display="block")
    writer.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx's application
    """Called by Sphinx."""
    app.connect("doctree-resolved", _break_code_in_tables)
    app.add_html_math_renderer("mathml", (_write_inline_formula, None), (_write_formula, None))
    app.connect("autodoc-skip-member", _is_offered_above)
    app.connect("autodoc-process-docstring", _describe_setting, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", _shorten_signature)
