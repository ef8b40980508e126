"""What every page must be for everybody: read without eyes, without a mouse, in the dark, on a
phone, on paper. Faults come back as sentences; an empty list is a page that holds.
"""

from __future__ import annotations

from typing import Any

# Every visible text against what is painted below it (WCAG 2.1 AA: 4.5, or 3 for large text). Text
# over a picture or a gradient is left out: its ground is not one colour.
CONTRAST = r"""(() => {
const read = (c) => { const m = c.match(/[\d.]+/g); if (!m) return null; const v = m.map(Number);
  if (c.startsWith('color(srgb')) return [255 * v[0], 255 * v[1], 255 * v[2], v[3] ?? 1];
  return [v[0], v[1], v[2], v[3] ?? 1]; };
const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const light = (c) => { const l = c.slice(0, 3).map((x) => { x /= 255;
  return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
const ground = (e) => { const layers = [];
  for (let p = e; p; p = p.parentElement) { const s = getComputedStyle(p);
    if (s.backgroundImage !== 'none') return null;
    const c = read(s.backgroundColor); if (c && c[3] > 0) { layers.push(c); if (c[3] === 1) break; } }
  const base = matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  return layers.reverse().reduce((below, c) => over(c, below), base); };
const faults = new Map(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let n = walk.nextNode(); n; n = walk.nextNode()) {
  const e = n.parentElement, text = n.textContent.trim();
  if (!text || e.closest('svg, script, style, noscript, option, .skip')) continue;
  if (!e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  const s = getComputedStyle(e), below = ground(e); if (!below) continue;
  const ink = over(read(s.color), below), a = light(ink), b = light(below);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), px = parseFloat(s.fontSize);
  const large = px >= 24 || (px >= 18.66 && Number(s.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5) - 0.01) faults.set(`${s.color} on rgb(${below.slice(0, 3).map(Math.round)})`,
    `contrast ${ratio.toFixed(2)}: "${text.slice(0, 40)}", ${s.color} on rgb(${below.slice(0, 3).map(Math.round)})`);
}
return [...faults.values()]; })()"""

# What a screen reader needs: names of pictures, drawings, fields, buttons and links; one heading.
NAMES = r"""(() => { const faults = [];
const name = (e) => (e.getAttribute('aria-label') || e.getAttribute('title') || e.textContent || '').trim();
const hidden = (e) => e.closest('[aria-hidden=true]') || !e.checkVisibility();
const all = (what) => [...document.querySelectorAll(what)], start = (e) => e.outerHTML.slice(0, 70);
for (const e of all('img')) if (!e.hasAttribute('alt')) faults.push(`picture without alt: ${e.src.slice(0, 60)}`);
for (const e of all('svg, canvas')) if (!hidden(e) && !e.closest('a, button, [role=img]') && !name(e))
  faults.push(`drawing without a name: ${start(e)}`);
for (const e of all('[role=img]')) if (!hidden(e) && !e.getAttribute('aria-label')) faults.push('role=img without a name');
for (const e of all('a[href], button, summary')) if (!hidden(e) && !name(e)
  && ![...e.querySelectorAll('img')].some((i) => i.alt)) faults.push(`<${e.tagName}> without a name: ${start(e)}`);
for (const e of all('input, select, textarea')) if (!hidden(e) && !e.labels?.length && !e.getAttribute('aria-label'))
  faults.push(`field without a label: ${start(e)}`);
for (const e of all('iframe')) if (!e.title) faults.push('iframe without a title');
for (const e of all('[role=img]')) if (e.querySelector('a[href], button, [role=button], [tabindex]'))
  faults.push(`role=img around what can be used: ${start(e)}`);
for (const e of all('.wide')) if (e.tabIndex < 0 && !e.querySelector('a[href], button'))
  faults.push(`a table that scrolls and cannot be reached: ${start(e)}`);
for (const e of all('p > a[href]')) if (!hidden(e) && getComputedStyle(e).textDecorationLine === 'none')
  faults.push(`a link in a text that only its colour tells: ${start(e)}`);
for (const e of all('th')) if (!hidden(e) && !e.textContent.trim()) faults.push('a heading of a table without words');
if (all('h1').length !== 1) faults.push(`${all('h1').length} headings of the first level`);
if (!document.documentElement.lang) faults.push('no language'); if (!document.title) faults.push('no title');
const ids = all('[id]').map((e) => e.id).filter((id, i, ids) => ids.indexOf(id) !== i);
if (ids.length) faults.push(`ids twice: ${ids}`);
return faults; })()"""

WIDTH = """(() => { const over = document.documentElement.scrollWidth - innerWidth;
return over > 0 ? [`${over} px wider than the window of ${innerWidth}`] : []; })()"""


def faults_of(page: Any) -> list[str]:
    """Faults of the page that a `chromium.Browser` shows now."""
    return [fault for check in (CONTRAST, NAMES, WIDTH) for fault in page.js(check)]


def unreachable(page: Any, most: int = 400) -> list[str]:
    """Links, buttons and fields that the Tab key never comes to, or comes to without showing it."""
    wanted = page.js(
        "[...document.querySelectorAll('a[href], button, select, input, summary')].filter(e =>"
        " e.checkVisibility() && e.tabIndex >= 0 && !e.disabled).map((e, i) =>"
        " (e.dataset.tabCheck = i, e.outerHTML.slice(0, 70)))"
    )
    page.js("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    seen, plain = set(), []
    for _ in range(min(most, len(wanted) + 5)):
        page.press("Tab")
        told = page.js(
            "(() => { const e = document.activeElement, s = getComputedStyle(e); return"
            " [e.dataset.tabCheck ?? null, s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0,"
            " e.outerHTML.slice(0, 70)]; })()"
        )
        if told[0] is not None:
            seen.add(int(told[0]))
            if not told[1]:
                plain.append(f"focus is not seen: {told[2]}")
    missed = [f"Tab never comes to {w}" for i, w in enumerate(wanted[:most]) if i not in seen]
    return missed + plain


def printed(page: Any) -> bytes:
    """The page as PDF, A4."""
    import base64

    told = page.call(
        "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, marginTop=0.4, marginBottom=0.4
    )
    return base64.b64decode(told["data"])
