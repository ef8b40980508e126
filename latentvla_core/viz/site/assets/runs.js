/* Closed-loop runs: the list, and one run played with its infractions, its road and its cameras. */
'use strict';

LV.pages.runs = (main, { query }) => {
  const runs = LV.index.runs, head = ['run', 'CLS', 'DS', 'route', 'infractions', 'traffic', 'ended', 'seconds'], left = [0, 4, 5, 6];
  if (!runs.length) {
    main.replaceChildren(h('h1', {}, 'Closed-loop runs'), h('p', {}, 'Nobody has driven by himself in this site. Materialise the closed_loop assets, or run ', h('code', {}, 'latentvla drive --out runs'), ', and then ', h('code', {}, 'latentvla view --runs runs'), '.'));
    return;
  }
  const state = Object.fromEntries(['driver', 'traffic', 'situation', 'kind'].map((name) => [name, query.get(name) || '']));
  const unique = (list) => [...new Set(list)].filter(Boolean).sort();
  const options = { driver: unique(runs.map((r) => r.driver)), traffic: unique(runs.map((r) => r.traffic)), situation: unique(runs.map((r) => r.situation)), kind: unique(runs.flatMap((r) => r.kinds || [])) };
  const fits = (r) => ['driver', 'traffic', 'situation'].every((n) => !state[n] || r[n] === state[n]) && (!state.kind || (r.kinds || []).includes(state.kind));
  const body = h('tbody'), count = h('p', { id: 'count', role: 'status', class: 'soft' });
  const fill = () => {
    const found = runs.filter(fits), scored = found.filter((r) => r.scores.cls !== undefined && r.scores.cls !== null);
    const mean = scored.length ? `, mean CLS ${(scored.reduce((s, r) => s + r.scores.cls, 0) / scored.length).toFixed(3)}` : '';
    count.textContent = `${found.length.toLocaleString('en')} of ${runs.length.toLocaleString('en')} runs${mean}. The worst first; click a run to see it.`;
    body.replaceChildren(...found.slice(0, 1000).map((r) => h('tr', {},
      h('td', {}, h('a', { href: LV.link('run', [r.run], { at: r.infractions ? 'lost' : '' }) }, `${r.driver} · ${r.scene}`), r.pictures ? h('span', { class: 'soft', title: 'with pictures' }, ' ▣') : ''),
      h('td', {}, r.scores.cls === undefined ? '–' : [LV.score(r.scores.cls), ' ', LV.bar(r.scores.cls ?? 0)]), h('td', {}, r.scores.ds === undefined || r.scores.ds === null ? '–' : r.scores.ds.toFixed(1)), h('td', {}, LV.score(r.scores.route_completion)),
      h('td', { class: r.infractions ? 'lost kinds left' : 'kinds left' }, r.infractions ? `${r.infractions}: ${(r.kinds || []).join(', ').replace(/_/g, ' ')}` : 'none'), h('td', { class: 'left' }, r.traffic), h('td', { class: 'left' }, r.ended.replace(/_/g, ' ')), h('td', {}, r.seconds))));
  };
  const pick = (name) => h('label', {}, name, h('select', { 'data-filter': name, onchange: (e) => { state[name] = e.target.value; LV.note(state); fill(); } },
    [['', 'any'], ...options[name].map((v) => [v, v.replace(/_/g, ' ')])].map(([v, text]) => h('option', { value: v, selected: v === state[name] }, text))));
  fill();
  main.replaceChildren(h('h1', {}, 'Closed-loop runs'),
    h('p', { class: 'soft' }, 'The planner drove by itself; traffic reacts to it, or repeats the log. CLS is nuPlan’s closed-loop score (0 to 1), DS is CARLA’s driving score (0 to 100).'),
    h('div', { class: 'filters card' }, Object.keys(options).map(pick)), count,
    h('div', { class: 'wide card' }, h('table', {}, h('thead', {}, h('tr', {}, head.map((t, k) => h('th', { scope: 'col', class: left.includes(k) ? 'left' : '' }, t)))), body)));
};

const RUN_SCORES = { cls: ['CLS, nuPlan (0 to 1)', 3], ds: ['DS, CARLA (0 to 100)', 1], route_completion: ['share of the route', 2],
  min_ttc_s: ['least time to collision, s', 1], driven_m: ['driven, m', 0] };
const runKey = (driver) => {
  const item = (kind, style, text) => h('span', {}, h('i', { class: kind, style }), text);
  return h('div', { class: 'key' }, item('', 'background:var(--ego)', 'ego, and its way'), item('line', `border-color:${LV.planColour(driver)}`, 'plan it follows'),
    item('line', `border-color:${LV.planColour('human')};border-top-style:dashed`, 'the human’s way'), item('', 'background:var(--vehicle)', 'vehicles'), item('', 'background:var(--person)', 'people'),
    item('', 'background:var(--red);opacity:.5', 'red light'), item('', 'background:var(--bad);border-radius:50%', 'infraction'));
};

/* The plan that was followed at a step, as points in the frame of the run's start; null before the first. */
function planOf(run, step) {
  const made = Object.keys(run.plans).map(Number).filter((k) => k <= step).pop();
  if (made === undefined) return null;
  const from = poseAt(run.path, made), plan = run.plans[made], c = Math.cos(from[2]), s = Math.sin(from[2]), points = [[from[0], from[1]]];
  for (let i = 0; i < plan.length; i += 3) points.push([from[0] + (c * plan[i] - s * plan[i + 1]) / 100, from[1] + (s * plan[i] + c * plan[i + 1]) / 100]);
  return points;
}

/* A run from above: the view follows the ego, which looks up. */
function runAbove(canvas, run) {
  const pen = canvas.getContext('2d');
  const places = run.others.map((o) => new Map(o.at.map((step, k) => [step, k])));
  const metres = (flat, by) => { const points = []; for (let i = 0; i < flat.length; i += by) points.push([flat[i] / 100, flat[i + 1] / 100]); return points; };
  const road = (run.road || []).map(([kind, ring]) => [kind, metres(ring, 2)]), lights = (run.lights || []).map((l) => [metres(l.ring_cm, 2), l.spans]);
  const way = metres(run.path, 3), human = metres(run.human || [], 3);
  const view = { zoom: 1, by: (f) => { view.zoom = Math.max(0.3, Math.min(5, view.zoom * f)); } };
  view.draw = (t) => {
    const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    canvas.width = Math.max(1, box.width * ratio); canvas.height = Math.max(1, box.height * ratio);
    const step = Math.round(indexOf(run.time_s, t)), ego = poseAt(run.path, step), scale = (Math.min(canvas.width, canvas.height) / 75) * view.zoom;
    const c = Math.cos(ego[2]), s = Math.sin(ego[2]);
    const at = (x, y) => { const dx = x - ego[0], dy = y - ego[1], fx = c * dx + s * dy, fy = -s * dx + c * dy; return [canvas.width / 2 - fy * scale, canvas.height * 0.7 - fx * scale]; };
    const trace = (points) => { pen.beginPath(); points.forEach((p, i) => pen[i ? 'lineTo' : 'moveTo'](...at(p[0], p[1]))); };
    const area = (points, colour) => { trace(points); pen.closePath(); pen.fillStyle = colour; pen.fill(); };
    const line = (points, colour, width, dash) => { trace(points); pen.setLineDash((dash || []).map((d) => d * ratio)); pen.strokeStyle = colour; pen.lineWidth = width * ratio; pen.stroke(); pen.setLineDash([]); };
    const shape = ([x, y, yaw], length, width, colour) => {
      const cc = Math.cos(yaw), ss = Math.sin(yaw);
      area([[1, 1], [-1, 1], [-1, -1], [1, -1]].map(([a, b]) => [x + cc * a * length / 2 - ss * b * width / 2, y + ss * a * length / 2 + cc * b * width / 2]), colour);
    };
    for (const [kind, ring] of road) if (kind) area(ring, LV.css('road'));
    for (const [kind, ring] of road) if (!kind) line([...ring, ring[0]], LV.css('edge'), 0.6);
    for (const [ring, spans] of lights) {
      const now = spans.find(([from, to]) => step >= from && step <= to);
      if (now) { pen.globalAlpha = 0.28; area(ring, LV.css(now[2] === 'red' ? 'red' : 'warn')); pen.globalAlpha = 1; }
    }
    if (human.length) line(human, LV.planColour('human'), 1.3, [6, 4]);
    line(way, LV.css('centre'), 1.2, [1.5, 3]); line(way.slice(0, step + 1), LV.css('ego'), 2.4);
    run.others.forEach((o, n) => { const k = places[n].get(step); if (k !== undefined) shape([o.poses[3 * k] / 100, o.poses[3 * k + 1] / 100, o.poses[3 * k + 2] / 1000], o.size_cm[0] / 100, o.size_cm[1] / 100, LV.css(CLASS_COLOUR[o.class] || 'static')); });
    const plan = planOf(run, step);
    if (plan) line(plan, LV.planColour(run.driver), 3);
    shape([ego[0] + CAR.ahead * c, ego[1] + CAR.ahead * s, ego[2]], CAR.length, CAR.width, LV.css('ego'));
    run.marks.forEach((m, k) => {
      if (!m.place_cm) return;
      const [x, y] = at(m.place_cm[0] / 100, m.place_cm[1] / 100), r = 10 * ratio;
      pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.fillStyle = LV.css('bad'); pen.globalAlpha = Math.abs(m.step - step) < 10 ? 1 : 0.45; pen.fill(); pen.globalAlpha = 1;
      pen.fillStyle = LV.css('card'); pen.font = `700 ${12 * ratio}px system-ui`; pen.textAlign = 'center'; pen.textBaseline = 'middle'; pen.fillText(k + 1, x, y);
    });
  };
  return view;
}

/* A run as `pictures` (scene.js) knows scenes: one frame for each picture. */
function runSeen(run) {
  const path = run.frames.flatMap((step) => run.path.slice(3 * step, 3 * step + 3));
  return { log: `run-${run.run}`, token: `run ${run.run}`, frames: run.frames, time_s: run.frames.map((step) => run.time_s[step]), path, cameras: run.cameras, plans: {}, num_history: 1 };
}

LV.pages.run = async (main, { rest, query }) => {
  const facts = LV.index.runs.find((r) => r.run === Number(rest[0]));
  if (!facts) throw new Error(`no run ${rest[0]} in this site`);
  const run = await LV.load(`runs/${facts.run}`), t = run.time_s;
  const title = h('div', { class: 'top' }, h('h1', {}, `Run of ${run.driver}`), h('span', { class: 'soft' }, `${run.situation} · ${run.location} · ${run.traffic} traffic · seed ${run.seed} · ended: ${run.ended.replace(/_/g, ' ')}${run.reason ? ` (${run.reason})` : ''}`), h('a', { href: LV.link('runs') }, 'all runs'));
  const list = h('ol', { class: 'why', id: 'why' }, run.marks.map((m, k) => h('li', {}, h('span', { class: 'mark' }, k + 1), h('span', {}, m.text, ' ', h('button', { class: 'bare', onclick: () => clock.seek(m.step / 10) }, `${(m.step / 10).toFixed(1)} s`)))));
  if (!t.length) { main.replaceChildren(title, h('p', {}, 'Its steps were not kept: drive again with steps to see it.'), list); return; }
  const others = LV.index.runs.filter((r) => r.scene === run.scene && r.traffic === run.traffic && r.seed === run.seed);
  const canvas = h('canvas', { class: 'above', role: 'img', 'aria-label': `run of ${run.driver} from above. ${run.marks.map((m) => m.text).join('. ')}` });
  const roll = h('div', { class: 'roll card' }), view = runAbove(canvas, run), seenBox = h('div');
  const scene = (run.frames || []).length ? runSeen(run) : null, state = { camera: 'CAM_F0' };
  let line = { seek: null }, seen = null;
  const look = (camera) => { state.camera = camera; seen = pictures(scene, Object.keys(scene.cameras), state, (c) => { look(c); clock.seek(clock.t); }); seenBox.replaceChildren(seen.element); };
  const show = (at) => {
    view.draw(at);
    if (seen) {
      const plan = planOf(run, Math.round(indexOf(t, at)));
      scene.plans = plan ? { [run.driver]: { points: plan } } : {};
      seen.show(at, [run.driver], run.marks);
    }
    if (line.seek) line.seek(at);
    LV.note({ t: at ? at.toFixed(1) : '' });
  };
  const first = query.get('at') === 'lost' && run.marks.length ? run.marks[0].step / 10 : Number(query.get('t')) || 0;
  const clock = LV.player({ start: t[0], end: t[t.length - 1], step: 0.1, big: 1, at: first, onmove: show, keys: {
    j: () => step(1), k: () => step(-1) } });
  const step = (by) => { if (LV.index.runs.some((r) => r.run === run.run + by)) location.hash = LV.link('run', [run.run + by]); };
  const zoom = (f) => { view.by(f); clock.seek(clock.t); };
  if (scene) look('CAM_F0'); else seenBox.append(h('div', { class: 'view' }, h('div', { class: 'none' }, 'no pictures of this run: latentvla view --run-pictures draws those of the worst')));
  const drivers = others.length > 1 ? h('p', { class: 'small' }, 'The same scene driven by ', others.map((r, i) => [i ? ' · ' : '', r.run === run.run ? h('b', {}, r.driver) : h('a', { href: LV.link('run', [r.run]) }, r.driver), ` ${LV.score(r.scores.cls)}`])) : '';
  main.replaceChildren(title, drivers,
    h('div', { class: 'stage' }, seenBox, h('figure', {}, canvas, h('figcaption', {}, 'from above, the ego looks up ', h('button', { class: 'bare', onclick: () => zoom(1.3), 'aria-label': 'nearer' }, '+'), h('button', { class: 'bare', onclick: () => zoom(1 / 1.3), 'aria-label': 'farther' }, '−')), runKey(run.driver))),
    clock.bar, roll,
    h('div', { class: 'cols' }, h('section', {}, h('h2', {}, `Infractions (${run.marks.length})`), run.marks.length ? list : h('p', { class: 'soft' }, 'None.')),
      h('section', {}, h('h2', {}, 'Scores of the whole run'), h('table', {}, h('tbody', {}, Object.entries(run.scores).map(([k, v]) => { const [name, digits] = RUN_SCORES[k] || [k.replace(/_/g, ' '), 2]; return h('tr', {}, h('th', { scope: 'row' }, name), h('td', {}, v === null ? '–' : v.toFixed(digits))); }))))));
  const brake = run.acceleration_mps2.map((a) => (a === null ? null : Math.max(0, -a)));
  line = LV.timeline(roll, { times: t, notes: [], marks: run.marks.map((m, k) => ({ t: m.step / 10, number: k + 1, text: m.text })), codes: false, signals: [
    { name: 'speed', unit: 'm/s', low: 0, high: 2, lines: [{ t, v: run.speed_mps, colour: 'var(--ego)' }] },
    { name: 'yaw rate', unit: 'rad/s, left is up', low: -0.1, high: 0.1, lines: [{ t, v: run.yaw_rate_radps, colour: 'var(--ego)' }] },
    { name: 'brake', unit: 'm/s²', low: 0, high: 1, lines: [{ t, v: brake, colour: 'var(--bad)', area: true }] }], onseek: (at) => clock.seek(at), onmark: (k) => clock.seek(run.marks[k].step / 10) });
  clock.seek(clock.t);
  const redraw = () => clock.seek(clock.t);
  addEventListener('resize', redraw);
  return () => { clock.stop(); line.stop(); removeEventListener('resize', redraw); };
};
