"""The shell of a self-contained page: style, headings, tables, pictures inside the file. No script,
nothing fetched.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDE = "<div class=wide tabindex=0 role=group aria-label='table; scrolls sideways'>"
"""Opens the box of a table that may be wider than the page: reached and scrolled by keyboard."""
STYLE = """
:root{color-scheme:light dark;--ink:#1f2630;--soft:#5b6572;--line:#e4e8ee;--bg:#f5f7fa;--card:#fff;--link:#1f4e9c;
--why:#fff6f5;--whyink:#5b2520;--aim:#fffaf0;--aimink:#5c4513}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#a0acba;--line:#2c3540;--bg:#10151b;--card:#181f27;
--link:#8db7ff;--why:#331b1a;--whyink:#ffc9c3;--aim:#33280f;--aimink:#f5dca8}}
@media print{:root{--ink:#000;--soft:#444;--line:#ccc;--bg:#fff;--card:#fff}}
*{box-sizing:border-box} html{scroll-behavior:smooth}
body{font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--ink);background:var(--bg);margin:0}
main{max-width:1120px;margin:0 auto;padding:1.6rem 1.2rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0 .4rem;
overflow-wrap:anywhere} h2{font-size:1.2rem;margin:2.2rem 0 .6rem} h3{font-size:1.05rem;margin:0 0 .3rem}
p{margin:.3rem 0 .8rem;max-width:76ch} .soft{color:var(--soft)} small{color:var(--soft)} code{font-size:.92em}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.1rem;margin:.8rem 0;overflow-x:auto}
.row{display:flex;flex-wrap:wrap;gap:1rem 1.6rem;align-items:flex-start}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:.7rem}
table{border-collapse:collapse;font-size:13.5px;width:100%} td,th{padding:.32rem .6rem;border-bottom:1px solid var(--line);
text-align:left;vertical-align:middle} th{color:var(--soft);font-weight:600} td.num{text-align:right;font-variant-numeric:tabular-nums}
.pill{display:inline-block;border-radius:99px;padding:.05rem .6rem;font-size:12px;font-weight:600;color:#fff;white-space:nowrap}
.good{background:#1d7a37}.bad{background:#b3261e}.warn{background:#8a5a00}.none{background:#566270}
.banner{border-radius:10px;padding:.9rem 1.1rem;color:#fff;font-size:1.05rem;margin:.8rem 0}
.why{background:var(--why);color:var(--whyink);font-size:13px} .why.target{background:var(--aim);color:var(--aimink)}
svg{max-width:100%;height:auto;font-family:inherit} figure{margin:0} figcaption{color:var(--soft);font-size:12px}
a{color:var(--link);text-underline-offset:2px;text-decoration-thickness:1px} .wide{overflow-x:auto}
.line{white-space:nowrap} .shade{display:block;text-align:center;border-radius:3px;padding:.1rem}
.pair{display:flex;gap:3px} .pair img{border-radius:4px;display:block;width:158px}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document."""
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'><title>{escape(title)}</title>"
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"


def write_page(path: Path, content: str) -> Path:
    """Write it whole or not at all: someone may be reading the page of the last run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(content, encoding="utf-8")
    return partial.replace(path)


def table(header: Sequence[str], rows: Sequence[str]) -> str:
    """Rows are `<tr>…</tr>` already; scrolls sideways where it is wider than the page."""
    head = "".join(_head(text) for text in header)
    return f"{WIDE}<table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _head(text: str) -> str:
    return f"<th>{escape(text)}</th>" if text else "<td></td>"


def cells(*content: str) -> str:
    """A row of cells of HTML."""
    return "<tr>" + "".join(f"<td>{c}</td>" for c in content) + "</tr>"


def pill(kind: str, label: str) -> str:
    """kind: good, bad, warn or none."""
    return f"<span class='pill {kind}'>{escape(label)}</span>"


def picture(jpeg: bytes, label: str) -> str:
    """A JPEG inside the page."""
    data = base64.b64encode(jpeg).decode()
    return f"<img src='data:image/jpeg;base64,{data}' alt='{escape(label, True)}' loading=lazy>"


def number(value: float) -> str:
    """Three significant digits; a dash for NaN; powers of ten where digits would only be noise."""
    if value != value:
        return "–"
    return f"{value:.1e}" if abs(value) >= 10_000 else f"{value:.3g}"
