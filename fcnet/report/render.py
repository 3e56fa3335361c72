"""Rendering of templates to a single HTML file that contains its style sheet, script and images."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fcnet.runtime.formatting import format_count, format_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
"""The folder with the style sheets and scripts."""


@dataclass(frozen=True)
class PageSection:
    """A section with its own script and style sheet.

    Attributes:
        html: the content, already escaped.
        script: JavaScript that runs after the page's own, in a function. Sections with equal scripts share one copy.
        style: CSS that follows the page's own. Sections with equal styles share one copy.
    """

    html: Markup
    script: str = ""
    style: str = ""


def render(template: str, *, sections: Sequence[PageSection] = (), **values: Any) -> str:  # noqa: ANN401 - any template value
    """Renders a page template, which extends ``base.html.j2``.

    The content security policy blocks everything except inline images and the page's own script, identified by its
    SHA-256.

    Args:
        template: the template's file name.
        sections: additional sections, available to the template as ``sections``.
        values: the template's variables; using an undefined variable raises an error.

    Returns:
        The HTML page.

    Example:
        >>> page = render("base.html.j2", sections=[PageSection(Markup("<p>Hello</p>"), script="let a = 1 < 2;")])
        >>> page.splitlines()[0], "let a = 1 < 2;" in page, "default-src 'none'" in page
        ('<!DOCTYPE html>', True, True)
    """
    page_script = (STATIC / "page.js").read_text(encoding="utf-8")
    page_style = (STATIC / "style.css").read_text(encoding="utf-8")
    # dict.fromkeys drops repeated scripts and styles and keeps their order.
    section_scripts = dict.fromkeys(section.script for section in sections if section.script)
    script = "\n".join([page_script, *(f"(() => {{\n{each}\n}})();" for each in section_scripts)])
    style = "\n".join(dict.fromkeys([page_style, *(section.style for section in sections)]))
    for text, end in ((script, "</script"), (script, "<!--"), (style, "</style")):
        assert end not in text.lower(), f"{end} would end its own element"
    head = {"script": Markup(script), "style": Markup(style), "policy": Markup(content_security_policy(script))}
    return str(render_template(template, sections=sections, **head, **values))


def render_template(template: str, **values: Any) -> Markup:  # noqa: ANN401 - any template value
    """Renders a template of a page or of a section; values other than `Markup` are escaped."""
    return Markup(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow to import

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"count": format_count, "number": format_number}
    return environment


def content_security_policy(script: str) -> str:
    """Returns the content security policy of a page with a single inline script.

    Example:
        >>> content_security_policy("").split()[-1]
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
