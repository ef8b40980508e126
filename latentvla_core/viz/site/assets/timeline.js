/* One clock: failures, the piano roll (steps × codes) and signals above each other. */
'use strict';

const ROLL = { left: 44, right: 16, row: 10, codes: 16, mark: 22, signal: 44, gap: 20 };

/* `notes`: [{t, until, code, label, teacher, student, confidence, chances: [16]}]. */
LV.timeline = (host, { times, notes, signals, marks, onseek, onmark, codes = true }) => {
  const start = Math.min(...times), end = Math.max(...times, ...notes.map((n) => n.until), ...signals.flatMap((s) => s.lines.flatMap((l) => l.t)));
  const line = {};
  const render = () => {
    const width = Math.max(280, host.clientWidth), inner = width - ROLL.left - ROLL.right;
    const x = (t) => ROLL.left + ((t - start) / (end - start || 1)) * inner;
    const lane = lanesOf(marks.map((m) => x(m.t))), top = marks.length ? ROLL.mark + 19 * Math.max(...lane) : 4, rows = codes ? ROLL.codes : 0, rollBottom = top + rows * ROLL.row;
    const parts = [...grid(x, start, end, top, rollBottom, rows), ...rollOf(notes, x, top, rollBottom)];
    let y = rollBottom + 34;
    for (const signal of signals) { parts.push(signalOf(signal, x, y, width)); y += ROLL.signal + ROLL.gap; }
    const cursor = `<line data-cursor x1="0" x2="0" y1="${marks.length ? top - 2 : 0}" y2="${y}" stroke="var(--ink)" stroke-width="1.5" pointer-events="none"/>`;
    const over = marks.map((m, k) => markOf(m, k, x, y, lane[k])).join('');
    host.innerHTML = `<svg width="${width}" height="${y}" viewBox="0 0 ${width} ${y}" role="group" aria-label="${esc(spoken(notes, marks))}">${parts.join('')}${cursor}${over}</svg>`;
    line.cursor = host.querySelector('[data-cursor]'); line.x = x; line.back = (px) => start + ((px - ROLL.left) / inner) * (end - start);
    host.querySelectorAll('[data-mark]').forEach((m) => m.addEventListener('click', (e) => { e.stopPropagation(); onmark(Number(m.dataset.mark)); }));
    host.firstChild.addEventListener('click', (e) => {
      if (e.target.closest('a')) return;
      onseek(Math.max(start, Math.min(end, line.back(e.clientX - host.getBoundingClientRect().left))));
    });
  };
  render();
  const watch = new ResizeObserver(() => { if (Math.abs(host.clientWidth - (host.firstChild?.clientWidth || 0)) > 2) { render(); line.seek(line.t); } });
  watch.observe(host);
  line.seek = (t) => { line.t = t; const x = line.x(t); line.cursor.setAttribute('x1', x); line.cursor.setAttribute('x2', x); };
  line.stop = () => watch.disconnect();
  line.start = start; line.end = end;
  return line;
};

const spoken = (notes, marks) => `Codes by time; ${notes.length} positions. ${marks.map((m) => m.text).join('. ')}`;

function* grid(x, start, end, top, bottom, rows) {
  for (let code = 0; code < rows; code++) {
    const y = top + code * ROLL.row;
    yield `<rect x="${x(start)}" y="${y}" width="${x(end) - x(start)}" height="${ROLL.row - 1}" fill="var(--road)" opacity=".55"/>`;
    if (code % 5 === 0 || code === 15) yield `<text x="${ROLL.left - 6}" y="${y + 9}" text-anchor="end">${code}</text>`;
  }
  if (rows) yield `<text x="2" y="${top + 9}">code</text>`;
  const step = end - start > 30 ? 10 : end - start > 12 ? 2 : 1;
  for (let t = Math.ceil(start / step) * step; t <= end; t += step) {
    yield `<line x1="${x(t)}" x2="${x(t)}" y1="${top}" y2="${bottom + 4}" stroke="var(--edge)" stroke-width="${t === 0 ? 1.6 : 0.5}"/>`;
    yield `<text x="${x(t)}" y="${bottom + 14}" text-anchor="middle">${t} s</text>`;
  }
}

function* rollOf(notes, x, top) {
  for (const n of notes) {
    const a = x(n.t) + 0.5, w = Math.max(1.5, x(n.until) - x(n.t) - 1), row = (code) => top + code * ROLL.row;
    if (n.chances) for (let code = 0; code < n.chances.length; code++) {
      const p = n.chances[code];
      if (p > 0.02) yield `<rect x="${a}" y="${row(code)}" width="${w}" height="${ROLL.row - 1}" fill="var(--warn)" opacity="${(0.65 * p).toFixed(2)}"/>`;
    }
    if (n.label !== LV.NONE && n.label !== undefined) {
      const sure = n.confidence === null || n.confidence === undefined ? 1 : n.confidence;
      const title = `${LV.codeName(n.label)}, position ${n.position + 1}, label${sure === 1 ? '' : `, confidence ${sure.toFixed(2)}`}`;
      yield `<a href="${LV.link('code', [n.label])}"><title>${esc(title)}</title>`
        + `<rect class="hit" x="${a}" y="${row(n.label)}" width="${w}" height="${ROLL.row - 1}" rx="2" fill="var(--accent)" opacity="${(0.35 + 0.65 * sure).toFixed(2)}"/></a>`;
    }
    if (n.teacher !== LV.NONE && n.teacher !== undefined) {
      yield `<rect x="${a + 0.5}" y="${row(n.teacher) + 0.5}" width="${Math.max(1, w - 1)}" height="${ROLL.row - 2}" rx="2" fill="none" stroke="var(--warn)" stroke-width="1.8" pointer-events="none"/>`;
    }
    if (n.student !== LV.NONE && n.student !== undefined) {
      yield `<circle cx="${a + w / 2}" cy="${row(n.student) + ROLL.row / 2}" r="${Math.min(3.4, Math.max(1.4, w / 2))}" fill="var(--bad)" stroke="var(--card)" pointer-events="none"/>`;
    }
  }
}

/* {name, unit, low, high, lines: [{t, v, colour, dash, area}]} */
function signalOf(signal, x, y, width) {
  const values = signal.lines.flatMap((l) => l.v).filter((v) => v !== null && Number.isFinite(v));
  const high = Math.max(signal.high, ...values), low = Math.min(signal.low, ...values);
  const at = (v) => y + ROLL.signal - ((v - low) / (high - low || 1)) * ROLL.signal;
  const digits = (v) => (Math.abs(v) < 1 ? v.toFixed(2) : Math.abs(v) < 10 ? v.toFixed(1) : v.toFixed(0));
  let text = `<rect x="${ROLL.left}" y="${y}" width="${width - ROLL.left - ROLL.right}" height="${ROLL.signal}" fill="var(--road)" opacity=".35"/>`
    + `<text x="${ROLL.left - 4}" y="${y + 9}" text-anchor="end">${digits(high)}</text><text x="${ROLL.left - 4}" y="${y + ROLL.signal}" text-anchor="end">${digits(low)}</text>`;
  if (low < 0 && high > 0) text += `<line x1="${ROLL.left}" x2="${width - ROLL.right}" y1="${at(0)}" y2="${at(0)}" stroke="var(--edge)" stroke-width=".7"/>`;
  for (const l of signal.lines) {
    const points = l.t.map((t, i) => (l.v[i] === null ? null : `${x(t).toFixed(1)},${at(l.v[i]).toFixed(1)}`)).filter(Boolean);
    if (l.area && points.length) text += `<polygon points="${x(l.t[0])},${at(0)} ${points.join(' ')} ${x(l.t[l.t.length - 1])},${at(0)}" fill="${l.colour}" opacity=".3"/>`;
    text += `<polyline points="${points.join(' ')}" fill="none" stroke="${l.colour}" stroke-width="1.7" ${l.dash ? 'stroke-dasharray="5 3"' : ''}/>`;
  }
  return text + `<text class="halo" x="${ROLL.left}" y="${y - 5}" style="fill:var(--ink)">${esc(signal.name)} <tspan fill="var(--soft)">${esc(signal.unit)}</tspan></text>`;
}

/* Numbers closer than their circles are wide stand below each other, three deep. */
function lanesOf(spots) {
  const ends = [-99, -99, -99];
  return spots.map((at) => {
    const free = ends.findIndex((end) => at - end >= 19), lane = free < 0 ? ends.indexOf(Math.min(...ends)) : free;
    ends[lane] = at;
    return lane;
  });
}

function markOf(mark, k, x, bottom, lane) {
  const at = x(mark.t), cy = 10 + 19 * lane;
  return `<g data-mark="${k}" class="hit"><title>${esc(mark.text)}</title><line x1="${at}" x2="${at}" y1="${cy + 8}" y2="${bottom}" stroke="var(--bad)" stroke-width="1.2" stroke-dasharray="3 3"/>`
    + `<circle cx="${at}" cy="${cy}" r="9" fill="var(--bad)"/><text x="${at}" y="${cy + 4}" text-anchor="middle" style="fill:var(--card);font-weight:700">${mark.number}</text></g>`;
}

LV.rollKey = () => h('div', { class: 'key' },
  h('span', {}, h('i', { style: 'background:var(--accent)' }), 'label, paler = less sure'),
  h('span', {}, h('i', { style: 'border:2px solid var(--warn)' }), "teacher's choice, shade = its chances"),
  h('span', {}, h('i', { style: 'background:var(--bad);border-radius:50%' }), "student's choice"),
  h('span', {}, 'each second has four codes side by side; click one to see every moment that carries it'));
