"""The report: one self-contained HTML page of a run. Tables and pictures come in; nothing is computed here."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --accent: #0b7285; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; max-width: 1080px; padding: 24px; }
h1 { margin: 0 0 4px; font-size: 26px; }
h2 { margin: 36px 0 8px; font-size: 19px; border-bottom: 2px solid var(--line); padding-bottom: 4px; }
h3 { font-size: 14px; margin: 14px 0 4px; }
p { max-width: 78ch; }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; margin: 8px 0; }
nav a { margin-right: 14px; color: var(--accent); text-decoration: none; white-space: nowrap; display: inline-block; }
table { border-collapse: collapse; width: 100%; font-size: 13px; display: block; overflow-x: auto; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.t { white-space: nowrap; }
.verdict { font-weight: 600; padding: 14px 18px; border-radius: 8px; margin: 16px 0; }
.yes { background: #ebfbee; color: #2b8a3e; }
.no { background: #fff5f5; color: #c92a2a; }
.neither { background: #f1f3f5; }
.pass { color: #2b8a3e; }
.fail { color: #c92a2a; }
details { margin: 10px 0; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; color: var(--accent); }
.muted, .missing, .not_applicable { color: var(--muted); }
"""


@dataclass(frozen=True)
class Section:
    """One part of the page, in order: words, pictures (title -> PNG), tables (title -> frame), and tables to unfold."""

    title: str
    words: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    folded: Mapping[str, pl.DataFrame] = field(default_factory=dict)


def page(title: str, subtitle: str, promoted: bool | None, verdict: str, sections: Sequence[Section]) -> str:
    """The whole page; it loads nothing from anywhere.

    Parameters
    ----------
    promoted : bool or None
        Colours the verdict; None where nothing was asked to be promoted.
    verdict : str
        The outcome in words.
    """
    links = "".join(f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a>' for s in sections)
    body = "".join(_section(section) for section in sections)
    colour = "neither" if promoted is None else "yes" if promoted else "no"
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1><p class=muted>{html.escape(subtitle)}</p>"
        f'<div id=verdict class="verdict {colour}">{html.escape(verdict)}</div><nav>{links}</nav>{body}'
        "<p class=muted>No investment advice. Simulated or historical results promise nothing.</p></body></html>"
    )


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def _section(section: Section) -> str:
    parts = [f'<section id="{_anchor(section.title)}"><h2>{html.escape(section.title)}</h2>']
    if section.words:
        parts.append(f"<p>{html.escape(section.words)}</p>")
    for title, png in section.pictures.items():
        data, words = base64.b64encode(png).decode(), html.escape(title)
        image = f'<img alt="{words}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption class=muted>{words}</figcaption></figure>")
    for title, frame in section.tables.items():
        parts.append(f"<h3>{html.escape(title)}</h3>{_table(frame)}")
    for title, frame in section.folded.items():
        rows = f"{len(frame)} row" + ("" if len(frame) == 1 else "s")
        parts.append(f"<details><summary>{html.escape(title)} ({rows})</summary>{_table(frame)}</details>")
    return "".join(parts) + "</section>"


def _table(frame: pl.DataFrame) -> str:
    head = "".join(
        f"<th{' class=n' if dtype.is_numeric() else ''}>{html.escape(name.replace('_', ' '))}</th>"
        for name, dtype in frame.schema.items()
    )
    rows = "".join(
        "<tr>" + "".join(_cell(name, value) for name, value in zip(frame.columns, row, strict=True)) + "</tr>"
        for row in frame.iter_rows()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "<td class='n muted'>\u2013</td>"
    if isinstance(value, float):
        shown = f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.1f}" if abs(value) < 1e5 else f"{value:,.0f}"
        return f"<td class=n>{shown}</td>"
    if isinstance(value, datetime):
        return f"<td class=t>{value:%Y-%m-%d %H:%M}</td>"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"<td class=n>{value:,}</td>"
    text = html.escape(str(value))
    return f'<td class="{text}">{text.replace("_", " ")}</td>' if name == "status" else f"<td>{text}</td>"
