/* The page of one scene: pictures, view from above, codes, scores, and where points were lost. */
'use strict';

/* Failures of a plan under one metric, those with a moment first. */
const failuresOf = (scene, name, metric) => ((scene.plans[name] || {}).why || {})[metric] || [];

function notesOf(codes) {
  const notes = [], gap = codes.label ? codes.label.gap_s : 1;
  const said = (who, k) => (codes[who] && codes[who].codes.length ? codes[who].codes[k] : undefined);
  const chances = codes.teacher && codes.teacher.chances_u8 ? LV.unpack(codes.teacher.chances_u8, 'u1') : null;
  if (!codes.label && !codes.teacher && !codes.student) return notes;
  for (let k = 0; k < 12; k++) {
    const t = (Math.floor(k / 4) + (k % 4) / 4) * gap, n = chances ? codes.teacher.num_codes : 0;
    notes.push({ t, until: t + gap / 4, position: k % 4, label: said('label', k), teacher: said('teacher', k), student: said('student', k),
      confidence: codes.label ? codes.label.confidence[k] : null,
      chances: chances && Array.from(chances.subarray(k * n, k * n + n), (v) => v / 255) });
  }
  return notes;
}

/* Speed along a plan at the middle of its steps. */
function planSpeed(plan) {
  const points = planPoints(plan), t = [], v = [];
  for (let i = 1; i < points.length; i++) {
    t.push(i * 0.5 - 0.25); v.push(Math.hypot(points[i][0] - points[i - 1][0], points[i][1] - points[i - 1][1]) / 0.5);
  }
  return { t, v };
}

function signalsOf(scene, names) {
  const t = scene.time_s, brake = scene.acceleration_mps2.map((a) => (a === null ? null : Math.max(0, -a)));
  const human = { t, v: scene.speed_mps, colour: 'var(--ego)' };
  return [
    { name: 'speed', unit: 'm/s; human solid, plans dashed', low: 0, high: 2, lines: [human,
      ...names.filter((n) => n !== 'human' && scene.plans[n] && scene.plans[n].xy_cm).map((n) => ({ ...planSpeed(scene.plans[n]), colour: LV.planColour(n), dash: true }))] },
    { name: 'yaw rate', unit: 'rad/s, left is up', low: -0.1, high: 0.1, lines: [{ t, v: scene.yaw_rate_radps, colour: 'var(--ego)' }] },
    { name: 'brake', unit: 'm/s²', low: 0, high: 1, lines: [{ t, v: brake, colour: 'var(--bad)', area: true }] },
  ];
}

function scoreTable(scene, state, pick, lost) {
  const names = Object.keys(scene.plans), subs = LV.index.metrics[state.metric] || [];
  const row = (name) => {
    const plan = scene.plans[name], told = plan.scores[state.metric];
    const cell = (sub) => {
      const value = told.sub[sub];
      return h('td', {}, value !== null && value < 1
        ? h('button', { class: 'bare lost', title: `show where ${name} lost ${sub}`, 'data-lost': sub, onclick: () => lost(name, sub) }, LV.score(value)) : LV.score(value));
    };
    const shown = !plan.valid ? [h('td', { colspan: subs.length + 1 }, `no plan: ${plan.reason}`)]
      : !told ? [h('td', { colspan: subs.length + 1 }, 'not scored')]
      : !told.valid ? [h('td', { colspan: subs.length + 1 }, `no score: ${told.reason}`)]
      : [h('td', {}, h('button', { class: 'bare num', 'data-score': name, title: 'the moment it was lost', onclick: () => lost(name, '') },
        LV.score(told.score)), ' ', LV.bar(told.score)), ...subs.map(cell)];
    return h('tr', { 'aria-selected': String(name === state.plan), 'data-plan': name },
      h('td', {}, h('span', { class: 'dot', style: `background:${LV.planColour(name)}` }), h('button', { class: 'bare', onclick: () => pick(name) }, name)), ...shown);
  };
  return h('div', { class: 'wide' }, h('table', {}, h('thead', {}, h('tr', {}, ['planner', state.metric, ...subs].map((t) => h('th', { scope: 'col' }, t)))),
    h('tbody', {}, names.map(row))));
}

function whyList(failures, name, seek) {
  if (!failures.length) return h('p', { class: 'soft' }, `${name}: nothing lost under this metric.`);
  return h('ol', { class: 'why' }, failures.map((f, k) => h('li', {}, h('span', { class: 'mark' }, k + 1), h('span', {},
    h('b', {}, f.sub, f.value === undefined || f.value === null ? '' : ` = ${LV.score(f.value)}`), ' ', f.text,
    f.forgiven ? h('i', { class: 'soft' }, ' (counts 1: the human driver fails here too)') : '',
    f.step >= 0 ? [' ', h('button', { class: 'bare', onclick: () => seek(f.step / 10) }, `${(f.step / 10).toFixed(1)} s`)] : ''))));
}

/* First moment at which something was lost; now where there is none. */
const moment = (failures, sub) => {
  const of = failures.filter((f) => f.step >= 0 && (!sub || f.sub === sub));
  return of.length ? Math.min(...of.map((f) => f.step)) / 10 : 0;
};

LV.pages.scene = async (main, { rest, query }) => {
  const [token] = rest, number = LV.index.number.get(token);
  if (number === undefined) throw new Error(`no scene ${token} in this site`);
  const scene = await LV.load(`scenes/${LV.fileName(token)}`);
  const names = Object.keys(scene.plans), metrics = LV.metrics();
  const known = (name) => (names.includes(name) ? name : '');
  const state = { plan: known(query.get('plan')) || names.find((n) => !LV.BASELINES.includes(n)) || names[0] || '',
    versus: known(query.get('versus')), metric: metrics.includes(query.get('metric')) ? query.get('metric') : metrics[0] || '',
    camera: query.get('camera') || 'CAM_F0', all: query.get('all') === '1' };
  const cameras = LV.index.cameras.filter((c) => c in scene.cameras);
  if (!cameras.includes(state.camera)) state.camera = cameras[0] || '';
  const box = h('div');
  let line = null, clock = null;
  const failures = () => failuresOf(scene, state.plan, state.metric);
  const remember = () => LV.note({ plan: state.plan, versus: state.versus, metric: state.metric === metrics[0] ? '' : state.metric,
    camera: state.camera === 'CAM_F0' ? '' : state.camera, all: state.all ? '1' : '', t: clock && clock.t ? clock.t.toFixed(1) : '' });
  const go = (by) => {
    const walk = LV.walk && LV.walk.includes(number) ? LV.walk : LV.index.tokens.map((_, i) => i);
    const next = walk[walk.indexOf(number) + by];
    if (next !== undefined) location.hash = LV.link('scene', [LV.index.tokens[next]], { plan: state.plan, versus: state.versus, metric: state.metric });
  };
  const pick = (name) => { state.plan = name; build(clock.t); };
  const lost = (name, sub) => { state.plan = name; build(moment(failuresOf(scene, name, state.metric), sub)); box.querySelector('.stage').scrollIntoView({ block: 'nearest' }); };

  function build(t) {
    if (clock) { clock.stop(); line.stop(); }
    const both = [state.plan, state.versus].filter(Boolean);
    const told = failures(), views = [];
    const drawn = (chosen) => [...new Set([...chosen.filter(Boolean), 'human', ...(state.all ? names : [])])];
    const everybody = () => { state.all = !state.all; build(clock.t); };
    const above = (name, failed, caption) => {
      const canvas = h('canvas', { class: 'above', role: 'img', 'aria-label': `${caption} from above. ${failed.map((f) => f.text).join('. ')}` });
      const view = LV.above(canvas, scene); view.first = name;
      views.push({ draw: (at) => view.draw(at, drawn([name]), failed) });
      const zoom = (by) => { view.by(by); clock.seek(clock.t); };
      canvas.addEventListener('wheel', (e) => { if (e.ctrlKey || e.shiftKey) { e.preventDefault(); zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15); } }, { passive: false });
      return h('figure', {}, canvas, h('figcaption', {}, name ? [h('span', { class: 'dot', style: `background:${LV.planColour(name)}` }), h('b', {}, name), ' '] : '', caption, ' ',
        h('button', { class: 'bare', onclick: () => zoom(1.3), 'aria-label': 'nearer' }, '+'), h('button', { class: 'bare', onclick: () => zoom(1 / 1.3), 'aria-label': 'farther' }, '−')), name === state.plan ? LV.aboveKey(scene) : '');
    };
    const score = (name) => { const s = name && scene.plans[name].scores[state.metric]; return s && s.valid ? `${state.metric} ${LV.score(s.score)}` : ''; };
    const seen = pictures(scene, cameras, state, (camera) => { state.camera = camera; build(clock.t); });
    const stage = h('div', { class: state.versus ? 'stage two' : 'stage' }, seen.element,
      above(state.plan, told, score(state.plan) || (scene.road ? 'the road' : scene.no_world)),
      state.versus ? above(state.versus, failuresOf(scene, state.versus, state.metric), score(state.versus)) : '');
    const roll = h('div', { class: 'roll card' });
    const onmove = (at) => { views.forEach((v) => v.draw(at)); seen.show(at, drawn(both).reverse(), told); if (line.seek) line.seek(at); remember(); };
    const choose = (label, key, options) => h('label', { class: 'small soft' }, `${label} `, h('select', { 'data-pick': key, onchange: (e) => { state[key] = e.target.value; build(clock.t); } },
      options.map(([v, text]) => h('option', { value: v, selected: v === state[key] }, text))));
    const start = Math.min(...scene.time_s, 0), end = Math.max(...scene.time_s, 4);
    clock = LV.player({ start, end, step: 0.1, big: 0.5, at: t, onmove, keys: { j: () => go(1), k: () => go(-1), a: everybody, c: () => { state.versus = state.versus ? '' : names.find((n) => n !== state.plan) || ''; build(clock.t); },
      ...Object.fromEntries(names.slice(0, 9).map((n, i) => [String(i + 1), () => pick(n)])) } });
    box.replaceChildren(
      names.length ? h('div', { class: 'clock' }, choose('plan', 'plan', names.map((n) => [n, n])), choose('beside', 'versus', [['', 'nothing'], ...names.filter((n) => n !== state.plan).map((n) => [n, n])]),
        metrics.length > 1 ? choose('metric', 'metric', metrics.map((m) => [m, m])) : '',
        h('label', { class: 'small soft' }, h('input', { type: 'checkbox', 'data-pick': 'all', checked: state.all, onchange: everybody }), ' plans of all planners')) : '',
      stage, clock.bar, roll, scene.codes.label || scene.codes.teacher ? LV.rollKey() : h('p', { class: 'soft' }, 'This scene has no codes yet: materialise latent_actions.'),
      h('div', { class: 'cols' }, h('section', {}, h('h2', {}, 'Scores'), names.length ? scoreTable(scene, state, pick, lost) : h('p', { class: 'soft' }, 'No plans of this scene yet.')),
        h('section', { id: 'why' }, state.plan ? [h('h2', {}, `Why ${state.plan} lost points`), whyList(told, state.plan, (at) => clock.seek(at))] : '',
          state.versus ? [h('h2', {}, `Why ${state.versus} lost points`), whyList(failuresOf(scene, state.versus, state.metric), state.versus, (at) => clock.seek(at))] : '')),
      h('p', { class: 'small soft' }, h('kbd', {}, 'space'), ' play · ', h('kbd', {}, '← →'), ' 0.1 s, with shift 0.5 s · ', h('kbd', {}, 'j'), ' ', h('kbd', {}, 'k'), ' next and previous scene · ', h('kbd', {}, '1'), '…', h('kbd', {}, '9'), ' plan · ', h('kbd', {}, 'c'), ' compare · ', h('kbd', {}, 'a'), ' plans of all'));
    line = { seek: null };
    const notes = notesOf(scene.codes);
    line = LV.timeline(roll, { times: scene.time_s.concat(0), notes, codes: notes.length > 0, signals: signalsOf(scene, both),
      marks: told.map((f, k) => ({ t: f.step / 10, number: k + 1, text: `${f.sub}: ${f.text}`, step: f.step })).filter((m) => m.step >= 0),
      onseek: (at) => clock.seek(at), onmark: (k) => clock.seek(told.filter((f) => f.step >= 0)[k].step / 10) });
    clock.seek(t);
  }
  const log = LV.index.logs[LV.index.of.log[number]];
  const copy = h('button', { onclick: () => { navigator.clipboard?.writeText(location.href); copy.textContent = 'copied'; } }, 'copy link');
  main.replaceChildren(h('div', { class: 'top' }, h('h1', {}, `Scene ${token}`),
    h('span', { class: 'soft' }, h('a', { href: LV.link('drive', [log.name]) }, log.name), ` · ${scene.split}${scene.city ? ` · ${scene.city}` : ''}${scene.command < 3 ? ` · ${LV.ARROWS[scene.command]} ${LV.COMMANDS[scene.command]}` : ' · no command'}`),
    h('span', {}, h('button', { onclick: () => go(-1) }, '‹ previous'), ' ', h('button', { onclick: () => go(1) }, 'next ›'), ' ', copy)), box);
  const asked = query.get('at') === 'lost' ? moment(failures(), query.get('sub')) : Number(query.get('t')) || 0;
  build(asked);
  const redraw = () => clock.seek(clock.t);
  addEventListener('resize', redraw);
  return () => { clock.stop(); line.stop(); removeEventListener('resize', redraw); };
};

/* The chosen camera large with plans on it, the others small. */
function pictures(scene, cameras, state, choose) {
  if (!cameras.length) return { element: h('div', { class: 'view' }, h('div', { class: 'none' }, 'no pictures in this site')), show: () => {} };
  const at = (camera, k) => LV.picture(scene.log, camera, scene.frames[k]);
  const now = scene.frames.findIndex((_, k) => scene.time_s[k] >= -1e-3);
  const image = h('img', { alt: `camera ${state.camera} of scene ${scene.token}`, src: at(state.camera, Math.max(0, now)) });
  const canvas = h('canvas', { 'aria-hidden': 'true' }), size = scene.cameras[state.camera].size_px;
  if (size[0]) image.style.aspectRatio = `${size[0]} / ${size[1]}`;
  const strip = cameras.map((camera) => {
    const small = h('img', { alt: '', src: at(camera, Math.max(0, now)) });
    small.onerror = () => { small.style.display = 'none'; };
    return { camera, small, button: h('button', { 'aria-pressed': String(camera === state.camera), 'aria-label': `camera ${camera}`, onclick: () => choose(camera) }, small, h('small', {}, camera.slice(4))) };
  });
  for (let k = 0; k < scene.frames.length; k++) new Image().src = at(state.camera, k); // so that play does not wait
  let last = -1;
  const show = (t, names, failures) => {
    const k = Math.floor(indexOf(scene.time_s, t + 1e-6) + 1e-6);
    if (k !== last) { image.src = at(state.camera, k); strip.forEach((s) => { if (s.camera !== state.camera || last < 0) s.small.src = at(s.camera, k); }); last = k; }
    LV.overlay(canvas, scene, state.camera, t, names, failures);
  };
  return { element: h('figure', {}, h('div', { class: 'view' }, image, canvas), cameras.length > 1 ? h('div', { class: 'strip' }, strip.map((s) => s.button)) : ''), show };
}
