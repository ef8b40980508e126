/* Closed-loop runs: the list, and one run played with its infractions. */
'use strict';

LV.pages.runs = (main) => {
  const runs = LV.index.runs, head = ['run', 'situation', 'traffic', 'seed', 'CLS', 'DS', 'route', 'seconds', 'ended', 'infractions'];
  main.replaceChildren(h('h1', {}, `Closed-loop runs (${runs.length.toLocaleString('en')})`),
    h('p', { class: 'soft' }, 'The planner drove by itself; traffic reacts, or repeats the log. Click a run to see it.'),
    h('div', { class: 'wide card' }, h('table', {}, h('thead', {}, h('tr', {}, head.map((t) => h('th', {}, t)))), h('tbody', {}, [...runs].sort((a, b) => (a.scores.cls ?? 2) - (b.scores.cls ?? 2)).map((r) => h('tr', {},
      h('td', {}, h('a', { href: LV.link('run', [r.run]) }, `${r.driver} · ${r.scene.slice(0, 12)}`)), h('td', {}, r.situation), h('td', {}, r.traffic), h('td', {}, r.seed),
      h('td', {}, r.scores.cls === undefined ? '–' : [LV.score(r.scores.cls), ' ', LV.bar(r.scores.cls ?? 0)]), h('td', {}, LV.score(r.scores.ds)), h('td', {}, LV.score(r.scores.route_completion)),
      h('td', {}, r.seconds), h('td', {}, r.ended), h('td', { class: r.infractions ? 'lost' : '' }, r.infractions)))))));
};

/* A run as the drawing code knows scenes: the view follows the ego. */
function runAbove(canvas, run) {
  const pen = canvas.getContext('2d');
  const places = run.others.map((o) => new Map(o.at.map((step, k) => [step, k])));
  const view = { zoom: 1, by: (f) => { view.zoom = Math.max(0.3, Math.min(5, view.zoom * f)); } };
  view.draw = (t) => {
    const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    canvas.width = Math.max(1, box.width * ratio); canvas.height = Math.max(1, box.height * ratio);
    const step = Math.round(indexOf(run.time_s, t)), ego = poseAt(run.path, step), scale = (Math.min(canvas.width, canvas.height) / 75) * view.zoom;
    const c = Math.cos(ego[2]), s = Math.sin(ego[2]);
    const at = (x, y) => { const dx = x - ego[0], dy = y - ego[1], fx = c * dx + s * dy, fy = -s * dx + c * dy; return [canvas.width / 2 - fy * scale, canvas.height * 0.7 - fx * scale]; };
    const shape = ([x, y, yaw], length, width, colour) => {
      const cc = Math.cos(yaw), ss = Math.sin(yaw); pen.beginPath();
      [[1, 1], [-1, 1], [-1, -1], [1, -1]].forEach(([a, b], i) => pen[i ? 'lineTo' : 'moveTo'](...at(x + cc * a * length / 2 - ss * b * width / 2, y + ss * a * length / 2 + cc * b * width / 2)));
      pen.closePath(); pen.fillStyle = colour; pen.fill();
    };
    const line = (points, colour, width, dash) => { pen.beginPath(); points.forEach((p, i) => pen[i ? 'lineTo' : 'moveTo'](...at(p[0], p[1]))); pen.setLineDash(dash || []); pen.strokeStyle = colour; pen.lineWidth = width * ratio; pen.stroke(); pen.setLineDash([]); };
    const way = []; for (let i = 0; i < run.path.length; i += 3) way.push([run.path[i] / 100, run.path[i + 1] / 100]);
    line(way, LV.css('edge'), 1.4); line(way.slice(0, step + 1), LV.css('ego'), 2.4);
    run.others.forEach((o, n) => { const k = places[n].get(step); if (k !== undefined) shape([o.poses[3 * k] / 100, o.poses[3 * k + 1] / 100, o.poses[3 * k + 2] / 1000], o.size_cm[0] / 100, o.size_cm[1] / 100, LV.css(CLASS_COLOUR[o.class] || 'static')); });
    const made = Object.keys(run.plans).map(Number).filter((k) => k <= step).pop();
    if (made !== undefined) {
      const from = poseAt(run.path, made), plan = run.plans[made], points = [[from[0], from[1]]];
      for (let i = 0; i < plan.length; i += 3) points.push([from[0] + Math.cos(from[2]) * plan[i] / 100 - Math.sin(from[2]) * plan[i + 1] / 100, from[1] + Math.sin(from[2]) * plan[i] / 100 + Math.cos(from[2]) * plan[i + 1] / 100]);
      line(points, LV.planColour(run.driver), 3);
    }
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

LV.pages.run = async (main, { rest, query }) => {
  const facts = LV.index.runs.find((r) => r.run === Number(rest[0]));
  if (!facts) throw new Error(`no run ${rest[0]} in this site`);
  const run = await LV.load(`runs/${facts.run}`), t = run.time_s;
  const canvas = h('canvas', { class: 'above', role: 'img', 'aria-label': `run of ${run.driver} from above. ${run.marks.map((m) => m.text).join('. ')}` });
  const roll = h('div', { class: 'roll card' });
  const list = h('ol', { class: 'why', id: 'why' }, run.marks.map((m, k) => h('li', {}, h('span', { class: 'mark' }, k + 1), h('span', {}, m.text, ' ', h('button', { class: 'bare', onclick: () => clock.seek(m.step / 10) }, `${(m.step / 10).toFixed(1)} s`)))));
  if (!t.length) { main.replaceChildren(h('h1', {}, `Run of ${run.driver}`), h('p', {}, 'Its steps were not kept: drive again with steps to see it.'), list); return; }
  const view = runAbove(canvas, run);
  let line = { seek: null };
  const clock = LV.player({ start: t[0], end: t[t.length - 1], step: 0.1, big: 1, at: Number(query.get('t')) || 0, onmove: (at) => { view.draw(at); if (line.seek) line.seek(at); LV.note({ t: at ? at.toFixed(1) : '' }); } });
  const zoom = (f) => { view.by(f); clock.seek(clock.t); };
  main.replaceChildren(h('div', { class: 'top' }, h('h1', {}, `Run of ${run.driver}`), h('span', { class: 'soft' }, `${run.situation} · ${run.location} · ${run.traffic} traffic · seed ${run.seed} · ended: ${run.ended}${run.reason ? ` (${run.reason})` : ''}`), h('a', { href: LV.link('runs') }, 'all runs')),
    h('div', { class: 'stage' }, h('figure', {}, canvas, h('figcaption', {}, 'from above, the ego looks up ', h('button', { class: 'bare', onclick: () => zoom(1.3), 'aria-label': 'nearer' }, '+'), h('button', { class: 'bare', onclick: () => zoom(1 / 1.3), 'aria-label': 'farther' }, '−'))),
      h('section', {}, h('h2', {}, 'Scores of the whole run'), h('table', {}, h('tbody', {}, Object.entries(run.scores).map(([k, v]) => h('tr', {}, h('th', { scope: 'row' }, k.replace(/_/g, ' ')), h('td', {}, v === null ? '–' : v))))), h('h2', {}, `Infractions (${run.marks.length})`), run.marks.length ? list : h('p', { class: 'soft' }, 'None.'))), clock.bar, roll);
  const brake = run.acceleration_mps2.map((a) => (a === null ? null : Math.max(0, -a)));
  line = LV.timeline(roll, { times: t, notes: [], marks: run.marks.map((m, k) => ({ t: m.step / 10, number: k + 1, text: m.text })), codes: false, signals: [
    { name: 'speed', unit: 'm/s', low: 0, high: 2, lines: [{ t, v: run.speed_mps, colour: 'var(--ego)' }] },
    { name: 'yaw rate', unit: 'rad/s, left is up', low: -0.1, high: 0.1, lines: [{ t, v: run.yaw_rate_radps, colour: 'var(--ego)' }] },
    { name: 'brake', unit: 'm/s²', low: 0, high: 1, lines: [{ t, v: brake, colour: 'var(--bad)', area: true }] }], onseek: (at) => clock.seek(at), onmark: (k) => clock.seek(run.marks[k].step / 10) });
  clock.seek(clock.t);
  return () => { clock.stop(); line.stop(); };
};
