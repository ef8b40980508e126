/* The first page: all scenes, filtered, sorted, ten thousand of them without a stutter. */
'use strict';

const WORST = ''; // planner "": the worst of the trained ones
const ROW_PX = () => (innerWidth <= 760 ? 114 : 82);

/* Which planners count when nobody is chosen: trained ones, else whoever there is. */
function judged(metric) {
  const all = Object.keys(LV.index.byPlan[metric] || {});
  const trained = all.filter((name) => !LV.BASELINES.includes(name.split('@')[0]));
  return trained.length ? trained : all;
}

/* (score 0…200 or 255, lost bits, planner) of a scene. */
function verdict(state, i) {
  const plans = LV.index.byPlan[state.metric];
  if (!plans) return [LV.NONE, 0, ''];
  if (state.planner !== WORST) {
    const p = plans[state.planner];
    return p ? [p.score[i], p.lost[i], state.planner] : [LV.NONE, 0, ''];
  }
  let best = [LV.NONE, 0, ''];
  for (const name of judged(state.metric)) {
    const p = plans[name];
    if (p.score[i] < best[0]) best = [p.score[i], p.lost[i], name];
  }
  return best;
}

function stateOf(query) {
  const metrics = LV.metrics();
  const metric = metrics.includes(query.get('metric')) ? query.get('metric') : metrics[0] || '';
  const get = (name) => query.get(name) || '';
  const known = LV.index.byPlan[metric] || {};
  return { metric, planner: get('planner') in known ? get('planner') : WORST, split: get('split'), city: get('city'),
    command: get('command'), code: get('code'), sentence: get('sentence'), lost: get('lost'),
    low: get('low'), high: get('high'), slow: get('slow'), fast: get('fast'), text: get('text'),
    sort: get('sort') || (metric ? 'worst' : 'time') };
}

/* Codes in a row, * for any: "4 4 * 10". */
function sentenceTest(text) {
  const words = text.trim().split(/[\s,]+/).filter(Boolean).map((w) => (w === '*' ? -1 : Number(w)));
  if (!words.length) return null;
  return (label, at) => {
    for (let s = 0; s + words.length <= 12; s++) {
      if (words.every((w, k) => w === -1 || label[at + s + k] === w)) return true;
    }
    return false;
  };
}

function chosen(state) {
  const { of, logs, tokens, metrics } = LV.index;
  const says = sentenceTest(state.sentence);
  const bit = state.lost === '' ? 0 : 1 << metrics[state.metric].indexOf(state.lost);
  const text = state.text.toLowerCase();
  const found = [], scores = [], times = [];
  for (let i = 0; i < tokens.length; i++) {
    const log = logs[of.log[i]];
    if (state.split && log.split !== state.split) continue;
    if (state.city && log.city !== state.city) continue;
    if (state.command && of.command[i] !== Number(state.command)) continue;
    const speed = of.speed_cmps[i] / 100;
    if (state.slow !== '' && speed < Number(state.slow)) continue;
    if (state.fast !== '' && speed > Number(state.fast)) continue;
    if (state.code !== '' && !of.label.subarray(i * 12, i * 12 + 12).includes(Number(state.code))) continue;
    if (says && !says(of.label, i * 12)) continue;
    if (text && !tokens[i].toLowerCase().includes(text) && !log.name.toLowerCase().includes(text)) continue;
    const [score, lost] = verdict(state, i);
    if ((state.low !== '' || state.high !== '' || bit) && score === LV.NONE) continue;
    if (state.low !== '' && score / 200 < Number(state.low)) continue;
    if (state.high !== '' && score / 200 > Number(state.high)) continue;
    if (bit && !(lost & bit)) continue;
    found.push(i); scores[i] = score; times[i] = i;
  }
  const by = {
    worst: (a, b) => scores[a] - scores[b] || a - b,
    best: (a, b) => (scores[b] === LV.NONE) - (scores[a] === LV.NONE) || 0 || scores[b] - scores[a] || a - b,
    time: (a, b) => a - b,
    fastest: (a, b) => of.speed_cmps[b] - of.speed_cmps[a] || a - b,
    teacher: (a, b) => of.teacher[a] - of.teacher[b] || a - b,
    student: (a, b) => of.student[a] - of.student[b] || a - b,
  }[state.sort] || ((a, b) => a - b);
  if (state.sort === 'best') {
    found.sort((a, b) => (scores[a] === LV.NONE) - (scores[b] === LV.NONE) || scores[b] - scores[a] || a - b);
  } else found.sort(by);
  return { found, scores };
}

function filterBar(state, changed) {
  const { logs, metrics } = LV.index;
  const unique = (list) => [...new Set(list)].filter(Boolean).sort();
  const set = (name) => (event) => { state[name] = event.target.value; changed(name === 'metric'); };
  const select = (label, name, options) => h('label', {}, label, h('select', { onchange: set(name), 'data-filter': name },
    options.map(([value, text]) => h('option', { value, selected: value === state[name] }, text))));
  const number = (label, low, high, step) => h('label', {}, label, h('span', { class: 'pairbox' },
    [low, high].map((name, k) => h('input', { type: 'number', step, value: state[name], 'data-filter': name,
      'aria-label': `${label} ${k ? 'at most' : 'at least'}`, placeholder: k ? 'max' : 'min', oninput: set(name) }))));
  const text = (label, name, hint) => h('label', {}, label, h('input', { type: 'text', value: state[name],
    placeholder: hint, 'data-filter': name, oninput: set(name) }));
  const plans = Object.keys(LV.index.byPlan[state.metric] || {});
  const any = (options) => [['', 'any'], ...options.map((o) => [o, o])];
  const scored = LV.metrics().length > 0;
  const active = Object.entries(state).filter(([k, v]) => v !== '' && !['metric', 'sort'].includes(k)).length;
  return h('details', { class: 'card', open: innerWidth > 760 || filterBar.open, ontoggle: (e) => { filterBar.open = e.target.open; } },
    h('summary', {}, active ? `filters (${active} set)` : 'filters'), h('div', { class: 'filters', role: 'search' },
    scored && select('planner', 'planner', [[WORST, 'worst of the trained'], ...plans.map((p) => [p, p])]),
    scored && select('metric', 'metric', LV.metrics().map((m) => [m, m])),
    select('split', 'split', any(unique(logs.map((l) => l.split)))),
    select('city', 'city', any(unique(logs.map((l) => l.city)))),
    select('command', 'command', [['', 'any'], ...LV.COMMANDS.map((c, i) => [String(i), c])]),
    select('code', 'code', [['', 'any'], ...Array.from({ length: 16 }, (_, i) => [String(i), LV.codeName(i).slice(5)])]),
    text('codes in a row', 'sentence', '4 4 * 10'),
    scored && select('lost in', 'lost', any(metrics[state.metric])),
    scored && number('score', 'low', 'high', 0.1),
    number('speed m/s', 'slow', 'fast', 1),
    text('log or scene', 'text', 'part of a name'),
    select('sort by', 'sort', [...(scored ? [['worst', 'worst score'], ['best', 'best score']] : []), ['time', 'log and time'],
      ['fastest', 'speed'], ['teacher', 'teacher is wrong'], ['student', 'student is wrong']]),
    h('button', { onclick: () => { location.hash = '#/'; LV.route(); } }, 'clear')));
}

function sceneRow(state, i, top) {
  const { of, logs, tokens, metrics } = LV.index;
  const log = logs[of.log[i]], token = tokens[i];
  const [score, lost, planner] = verdict(state, i);
  const to = LV.link('scene', [token], { plan: planner, metric: planner ? state.metric : '' });
  const seen = of.picture[i] && LV.index.cameras.includes('CAM_F0');
  const names = (metrics[state.metric] || []).filter((_, b) => lost & (1 << b));
  const failed = LV.link('scene', [token], { plan: planner, metric: state.metric, at: 'lost' });
  const said = (name) => (of[name][i] === LV.NONE ? '' : `${name} ${of[name][i]}/12`);
  return h('div', { class: 'row', style: `top:${top}px`, role: 'listitem' },
    h('a', { class: 'to', href: to, tabindex: -1, 'aria-hidden': 'true' },
      seen ? LV.image(LV.picture(log.name, 'CAM_F0', of.frame[i]), '') : h('span', { class: 'noimg' }, 'no picture')),
    h('a', { class: 'to', href: to },
      h('div', { class: 'one' }, h('b', {}, token), ' ', h('span', { class: 'soft small' }, log.split)),
      h('div', { class: 'one small soft' }, `${log.name} · ${(of.time_ds[i] / 10).toFixed(1)} s`),
      h('div', { class: 'one small' }, `${of.command[i] < 3 ? `${LV.ARROWS[of.command[i]]} ${LV.COMMANDS[of.command[i]]}` : 'no command'} · ${(of.speed_cmps[i] / 100).toFixed(1)} m/s`,
        log.city ? ` · ${log.city}` : '')),
    h('div', {}, LV.sentence(of.label.subarray(i * 12, i * 12 + 12)),
      h('div', { class: 'small soft one' }, [said('teacher'), said('student')].filter(Boolean).join(' · '))),
    score === LV.NONE ? h('span', { class: 'soft small' }, state.metric ? 'not scored' : '')
      : h('a', { class: 'score', href: failed, title: 'the moment it was lost' }, LV.bar(score / 200),
        h('b', { class: 'num' }, LV.score(score / 200)),
        h('span', { class: 'small one' }, planner), h('span', { class: 'lost' }, names.join(' '))));
}

function bins(scores, found, state, changed) {
  const counts = new Array(20).fill(0);
  let sum = 0, n = 0;
  for (const i of found) {
    if (scores[i] === LV.NONE) continue;
    counts[Math.min(19, Math.floor(scores[i] / 10))]++; sum += scores[i] / 200; n++;
  }
  if (!n) return h('span');
  const top = Math.max(...counts);
  const bars = counts.map((c, k) => h('button', { style: `height:${c ? Math.max(3, 44 * c / top) : 1}px`,
    title: `${c} scenes score ${(k / 20).toFixed(2)} to ${((k + 1) / 20).toFixed(2)}`,
    'aria-label': `${c} scenes from ${(k / 20).toFixed(2)}`,
    onclick: () => { state.low = String(k / 20); state.high = String((k + 1) / 20); changed(true); } }));
  return h('div', {}, h('div', { class: 'bins' }, bars),
    h('small', { class: 'soft' }, `scenes by ${state.metric} of ${state.planner || 'their worst trained plan'}, from 0 to 1; mean ${(sum / n).toFixed(3)}`));
}

LV.pages[''] = (main, address) => {
  if (!LV.index.tokens.length) return LV.pages.runs(main, address); // a lake that only drove
  const state = stateOf(address.query);
  const head = h('div'), list = h('div', { class: 'list', role: 'list', 'aria-label': 'scenes' }), summary = h('div', { class: 'found' });
  let found = [], scores = [], drawn = new Map(), frame = 0;
  const draw = () => {
    frame = 0;
    const row = ROW_PX(), above = list.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-above / row) - 4);
    const last = Math.min(found.length, Math.ceil((innerHeight - above) / row) + 4);
    for (const [k, element] of drawn) if (k < first || k >= last) { element.remove(); drawn.delete(k); }
    for (let k = first; k < last; k++) {
      if (!drawn.has(k)) { const element = sceneRow(state, found[k], k * row); drawn.set(k, element); list.append(element); }
    }
  };
  const later = () => { frame ||= requestAnimationFrame(draw); };
  const changed = (rebuild = false) => {
    LV.note(Object.fromEntries(Object.entries(state).filter(([k, v]) => v !== '' && !(k === 'sort' && v === 'worst')
      && !(k === 'metric' && v === LV.metrics()[0]))));
    if (rebuild) head.replaceChildren(filterBar(state, changed));
    refresh();
  };
  const refresh = () => {
    ({ found, scores } = chosen(state));
    LV.walk = found; // previous and next on the scene page go through what is shown here
    list.replaceChildren(); drawn = new Map();
    list.style.height = found.length * ROW_PX() + 'px';
    const drives = new Set(found.map((i) => LV.index.of.log[i])).size;
    summary.replaceChildren(
      h('div', { role: 'status', id: 'count' }, h('b', {}, found.length.toLocaleString('en')), ` of ${LV.index.tokens.length.toLocaleString('en')} scenes, ${drives} drives`),
      bins(scores, found, state, changed),
      h('span', { class: 'soft small' }, found.length ? `Click a scene to open it${LV.metrics().length ? ', a score to see the moment it was lost' : ''}.` : 'No scene fits; loosen a filter.'));
    draw();
  };
  head.replaceChildren(filterBar(state, changed));
  main.replaceChildren(h('h1', {}, 'Scenes'), head, summary, list);
  addEventListener('scroll', later, { passive: true }); addEventListener('resize', refresh);
  refresh();
  return () => { removeEventListener('scroll', later); removeEventListener('resize', refresh); };
};
