"""A template and its values -> one HTML file that holds all it needs: style, script, pictures."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
"""The folder of the page's style sheets and scripts."""


@dataclass(frozen=True)
class PageSection:
    """A part of a page that brings its own script and style.

    Attributes:
        html: its content, safe as it stands.
        script: JavaScript that runs after the page's own, in a function of its own; once for parts of the same.
        style: CSS that stands after the page's own; likewise.
    """

    html: Markup
    script: str = ""
    style: str = ""


def render(template: str, *, sections: Sequence[PageSection] = (), **values: Any) -> str:  # noqa: ANN401 - what the template takes
    """Fills in a template of this folder, which extends ``base.html.j2``.

    The page may load nothing but the pictures it holds itself: its content security policy names the one script by
    its SHA-256, and forbids the rest.

    Args:
        template: the file's name.
        sections: further parts, which the template finds under ``sections``.
        values: by name; a name that is not given and is used all the same is an error.

    Returns:
        The page.

    Example:
        >>> page = render("base.html.j2", sections=[PageSection(Markup("<p>Hello</p>"), script="let a = 1 < 2;")])
        >>> page.splitlines()[0], "let a = 1 < 2;" in page, "default-src 'none'" in page
        ('<!DOCTYPE html>', True, True)
    """
    own = (STATIC / "page.js").read_text(encoding="utf-8")
    scripts = dict.fromkeys(section.script for section in sections if section.script)  # each once, as the styles
    script = "\n".join([own, *(f"(() => {{\n{each}\n}})();" for each in scripts)])
    styles = dict.fromkeys([(STATIC / "style.css").read_text(encoding="utf-8"), *(each.style for each in sections)])
    style = "\n".join(styles)
    for text, end in ((script, "</script"), (script, "<!--"), (style, "</style")):
        assert end not in text.lower(), f"{end} would end the element that it stands in"
    head = {"script": Markup(script), "style": Markup(style), "policy": Markup(content_security_policy(script))}
    return str(render_template(template, sections=sections, **head, **values))


def render_template(template: str, **values: Any) -> Markup:  # noqa: ANN401 - what the template takes
    """Fills in a template of this folder, a page's or a part's; what is not `Markup` is escaped."""
    return Markup(_templates().get_template(template).render(**values))


@functools.cache
def _templates() -> Environment:
    """Where the templates are, each compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes a while to import

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def content_security_policy(script: str) -> str:
    """The content security policy of a page with one inline script.

    Example:
        >>> content_security_policy("").split()[-1]
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
