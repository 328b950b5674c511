"""The page around the pictures: one HTML file that asks nothing of anyone, and the pictures as PNG.

Texts reach the page through Jinja, which escapes them, or as JSON in which ``<`` is written \\u003c; scripts put them
into the document as text. A content security policy lets no other script run and nothing be fetched. Vega comes with
vl-convert and stands in the page once; it interprets its expressions, so that the policy need not allow ``eval``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from gradstore.report.style import DARK, LIGHT

FOLDER = Path(__file__).parent
TABLE_OF = "influence"  # the figure whose brush fills the table of questions
PNG_WIDTH, PNG_SCALE = 760, 2
TITLE_HEIGHT = 30


@dataclass(frozen=True)
class Fact:
    """A number that comes first: what, how much, of what."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Section:
    """A picture with a sentence on how to read it; without a picture, what is missing and the command that makes it."""

    key: str
    title: str
    text: str
    figure: Mapping[str, Any] | None = None
    missing: str = ""
    command: str = ""

    @property
    def caption(self) -> str:
        return str(self.figure["usermeta"]["caption"]) if self.figure else ""


@dataclass(frozen=True)
class Listing:
    """A table of texts."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """All of a report, in the order of the page."""

    store: str
    selection: str | None
    facts: Sequence[Fact] = ()
    remarks: Sequence[str] = ()
    sections: Sequence[Section] = ()
    listings: Sequence[Listing] = ()
    commands: Sequence[str] = field(default_factory=list)


def render(page: Page) -> str:
    """The page as HTML. The same page gives the same bytes."""
    figures = {s.key: s.figure for s in page.sections if s.figure}
    scripts = [vega(), (FOLDER / "page.js").read_text(encoding="utf-8")] if figures else []
    css = (FOLDER / "page.css").read_text(encoding="utf-8")
    policy = f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes([css])}; img-src data:"
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=loader, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        page=page,
        policy=policy,
        css=css,
        scripts=scripts,
        table_of=TABLE_OF,
        data=as_json({"figures": figures, "themes": {"light": LIGHT, "dark": DARK}, "table": TABLE_OF}),
    )


def as_json(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<``, ``>`` or ``&``, and no separator that ends a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that defines ``vegaEmbed``; from vl-convert, without a network."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def png(figure: Mapping[str, Any]) -> bytes:
    """A figure as a PNG in the light theme, its title above it."""
    title = figure["usermeta"]["title"]
    spec = {**figure, "width": PNG_WIDTH, "title": title, "config": {**LIGHT, "background": "white"}, "padding": 12}
    if isinstance(figure.get("height"), int):
        spec["height"] = figure["height"] + TITLE_HEIGHT  # which the page has outside the picture
    return vl_convert.vegalite_to_png(vl_spec=spec, scale=PNG_SCALE)


def _hashes(texts: Sequence[str]) -> str:
    """Sources of a policy: these texts and no others."""
    digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts]
    return " ".join(f"'sha256-{d}'" for d in digests) or "'none'"
