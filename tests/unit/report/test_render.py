"""Tests of fcnet.report.render."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from fcnet.report.render import PageSection, content_security_policy, render, render_template


class ParsedPage(HTMLParser):
    """The content security policy and the scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.policy, self.scripts, self.tags = "", list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


def test_the_policy_allows_exactly_the_one_script_of_the_page() -> None:
    sections = [PageSection(Markup("<p>x</p>"), script="const a = 1 < 2 && '&amp;';"), PageSection(Markup(""))]
    page = ParsedPage(render("base.html.j2", sections=sections))
    (script,) = page.scripts
    assert "const a = 1 < 2 && '&amp;';" in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.policy == (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert page.policy == content_security_policy(script)


def test_a_section_brings_its_html_and_its_style() -> None:
    page = render("base.html.j2", sections=[PageSection(Markup("<b id='own'>x</b>"), style=".own { color: red; }")])
    assert "<b id='own'>x</b>" in page
    assert ".own { color: red; }" in page.split("</style>")[0]


def test_sections_with_equal_scripts_and_styles_share_one_copy() -> None:
    section = PageSection(Markup("<p>x</p>"), script="let only = 1;", style=".only { color: red; }")
    page = render("base.html.j2", sections=[section, section])
    assert page.count("<p>x</p>") == 2
    assert page.count("let only = 1;") == page.count(".only { color: red; }") == 1


@pytest.mark.parametrize("text", ["'</script>'", "'<!--'"])
def test_a_script_that_would_end_its_own_element_is_a_bug(text: str) -> None:
    with pytest.raises(AssertionError):
        render("base.html.j2", sections=[PageSection(Markup(""), script=text)])


def test_an_undefined_variable_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("report.html.j2")


def test_values_are_escaped_unless_they_are_markup() -> None:
    section = PageSection(render_template("base.html.j2", sections=(), style="<", script=Markup("<"), policy=""))
    assert "<style>&lt;</style>" in section.html
    assert "<script><</script>" in section.html


def test_the_base_page_makes_no_request() -> None:
    page = render("base.html.j2")
    assert not re.search(r"""https?:|//[a-z]|@import|url\(|src=|href=["'](?!data:,|#)""", page)
