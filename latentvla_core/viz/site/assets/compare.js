/* Two planners, or two versions of one, scene by scene. */
'use strict';

LV.pages.compare = (main, { query }) => {
  const metrics = LV.metrics(), metric = metrics.includes(query.get('metric')) ? query.get('metric') : metrics[0];
  const plans = LV.index.byPlan[metric] || {}, names = Object.keys(plans);
  if (names.length < 2) { main.replaceChildren(h('h1', {}, 'Compare'), h('p', {}, 'Two scored planners are needed; this site has ' + names.length + '.')); return; }
  const trained = names.filter((n) => !LV.BASELINES.includes(n));
  const a = plans[query.get('a')] ? query.get('a') : trained[0] || names[0];
  const b = plans[query.get('b')] ? query.get('b') : trained.find((n) => n.startsWith(a) && n !== a) || names.find((n) => n !== a);
  const split = query.get('split') || '';
  const { of, logs, tokens } = LV.index, rows = [];
  for (let i = 0; i < tokens.length; i++) {
    if (split && logs[of.log[i]].split !== split) continue;
    const x = plans[a].score[i], y = plans[b].score[i];
    if (x !== LV.NONE && y !== LV.NONE) rows.push([i, x / 200, y / 200, (y - x) / 200]);
  }
  const byLog = new Map();
  rows.forEach(([i, , , d]) => { const l = byLog.get(of.log[i]) || [0, 0]; byLog.set(of.log[i], [l[0] + d, l[1] + 1]); });
  const mean = rows.reduce((s, r) => s + r[3], 0) / (rows.length || 1);
  const pick = (label, key, value, options) => h('label', {}, label, h('select', { 'data-filter': key, onchange: (e) => { location.hash = LV.link('compare', [], { a, b, metric, split, [key]: e.target.value }); } },
    options.map(([v, t]) => h('option', { value: v, selected: v === value }, t))));
  const own = (list) => list.map((v) => [v, v]);
  const to = (i) => LV.link('scene', [tokens[i]], { plan: a, versus: b, metric });
  rows.sort((p, q) => Math.abs(q[3]) - Math.abs(p[3]) || p[0] - q[0]);
  const spots = rows.slice(0, 4000).map(([i, x, y]) => `<a href="${to(i)}"><circle cx="${40 + x * 300}" cy="${320 - y * 300}" r="4.5" fill="var(--accent)" opacity=".45"><title>${esc(tokens[i])}: ${x.toFixed(2)} → ${y.toFixed(2)}</title></circle></a>`).join('');
  const plot = h('div');
  plot.innerHTML = `<svg class="plot" width="360" height="360" viewBox="0 0 360 360" role="group" aria-label="score of ${esc(a)} against ${esc(b)}, one point a scene"><rect x="40" y="20" width="300" height="300" fill="var(--road)" opacity=".4"/><line x1="40" y1="320" x2="340" y2="20" stroke="var(--edge)"/>`
    + `<text x="190" y="345" text-anchor="middle">${esc(a)}</text><text transform="translate(14 170) rotate(-90)" text-anchor="middle">${esc(b)}</text><text x="34" y="324" text-anchor="end">0</text><text x="34" y="26" text-anchor="end">1</text><text x="340" y="335" text-anchor="end">1</text>${spots}</svg>`;
  const line = ([i, x, y, d]) => h('tr', {}, h('td', {}, h('a', { href: to(i) }, tokens[i])), h('td', {}, LV.score(x)), h('td', {}, LV.score(y)), h('td', { class: d <= -0.05 ? 'lost' : '' }, (d > 0 ? '+' : d < 0 ? '−' : '') + Math.abs(d).toFixed(2)), h('td', { class: 'left' }, logs[of.log[i]].name));
  main.replaceChildren(h('h1', {}, 'Compare'), h('div', { class: 'filters card' }, pick('A', 'a', a, own(names)), pick('B', 'b', b, own(names)), pick('metric', 'metric', metric, own(metrics)), pick('split', 'split', split, [['', 'any'], ...own([...new Set(logs.map((l) => l.split))])])),
    h('p', {}, h('b', { class: 'num' }, `B − A = ${mean >= 0 ? '+' : '−'}${Math.abs(mean).toFixed(3)}`), ` on ${rows.length.toLocaleString('en')} scenes of ${byLog.size} drives. `,
      h('span', { class: 'soft' }, 'A difference of means is no verdict: scenes of one drive go together, and the report says which comparisons are evidence. Stored in steps of 0.005.')),
    h('div', { class: 'cols' }, h('div', { class: 'wide card' }, h('table', {}, h('thead', {}, h('tr', {}, ['scene', a, b, 'B − A', 'drive'].map((t, k) => h('th', { scope: 'col', class: k === 4 ? 'left' : '' }, t)))), h('tbody', {}, rows.slice(0, 200).map(line)))), plot));
};
