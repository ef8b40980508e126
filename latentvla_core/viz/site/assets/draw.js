/* A scene from above on a canvas, and plans laid onto a camera picture. Ego frame: x forward, y left, cm. */
'use strict';

const CAR = { length: 5.176, width: 2.297, ahead: 1.461 }; // rear axle to centre
const CLASS_COLOUR = ['vehicle', 'person', 'bike'];

/* Pose [x m, y m, yaw] of flat [x cm, y cm, yaw mrad, …] at a fractional index. */
function poseAt(flat, index) {
  const last = flat.length / 3 - 1, i = Math.max(0, Math.min(last, index)), a = Math.floor(i), b = Math.min(last, a + 1), f = i - a;
  const mix = (k) => flat[a * 3 + k] * (1 - f) + flat[b * 3 + k] * f;
  const turn = flat[b * 3 + 2] - flat[a * 3 + 2], near = ((turn + 3141.593) % 6283.185 + 6283.185) % 6283.185 - 3141.593;
  return [mix(0) / 100, mix(1) / 100, (flat[a * 3 + 2] + f * near) / 1000];
}

/* Index into a list of growing times, fractional. */
function indexOf(times, t) {
  if (t <= times[0]) return 0;
  for (let i = 1; i < times.length; i++) if (t <= times[i]) return i - 1 + (t - times[i - 1]) / (times[i] - times[i - 1]);
  return times.length - 1;
}

/* Points [[x, y], …] in metres of a plan, from the ego on. */
const planPoints = (plan) => {
  const points = [[0, 0]];
  for (let i = 0; plan.xy_cm && i < plan.xy_cm.length; i += 2) points.push([plan.xy_cm[i] / 100, plan.xy_cm[i + 1] / 100]);
  return points;
};

/* Where the car of a plan is at t seconds: as driven where that is known, else along the plan. */
function planPose(plan, t) {
  if (plan.driven) return poseAt(plan.driven, t * 10);
  if (!plan.xy_cm) return null;
  const flat = [0, 0, 0];
  for (let i = 0; i < plan.yaw_mrad.length; i++) flat.push(plan.xy_cm[2 * i], plan.xy_cm[2 * i + 1], plan.yaw_mrad[i]);
  return poseAt(flat, t / 0.5);
}

/* How much road the view shows: the next four seconds of the drive and of every plan. */
function metresShown(scene) {
  if (scene.metresShown) return scene.metresShown;
  let reach = 0;
  scene.time_s.forEach((t, i) => { if (t >= 0 && t <= 4) reach = Math.max(reach, Math.hypot(scene.path[3 * i], scene.path[3 * i + 1]) / 100); });
  for (const plan of Object.values(scene.plans)) for (const [x, y] of planPoints(plan)) reach = Math.max(reach, Math.hypot(x, y));
  return (scene.metresShown = Math.max(42, Math.min(90, 1.1 * reach + 14)));
}

/* A view from above: `view.draw(t, names, failures)`; wheel and buttons zoom. */
LV.above = (canvas, scene) => {
  const pen = canvas.getContext('2d');
  const view = { zoom: 1, size: 0 };
  const fit = () => {
    const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    const w = Math.max(1, Math.round(box.width * ratio)), hh = Math.max(1, Math.round(box.height * ratio));
    if (canvas.width !== w || canvas.height !== hh) { canvas.width = w; canvas.height = hh; }
    view.size = Math.min(w, hh); view.ratio = ratio;
    view.scale = (view.size / metresShown(scene)) * view.zoom; // pixels per metre
  };
  const at = (x, y) => [canvas.width / 2 - y * view.scale, canvas.height * 0.74 - (x - view.ahead) * view.scale];
  const path = (flat, close) => {
    pen.beginPath();
    for (let i = 0; i < flat.length; i += 2) pen[i ? 'lineTo' : 'moveTo'](...at(flat[i] / 100, flat[i + 1] / 100));
    if (close) pen.closePath();
  };
  const box = ([x, y, yaw], length, width) => {
    const c = Math.cos(yaw), s = Math.sin(yaw), l = length / 2, w = width / 2;
    pen.beginPath();
    [[l, w], [-l, w], [-l, -w], [l, -w]].forEach(([a, b], i) => pen[i ? 'lineTo' : 'moveTo'](...at(x + c * a - s * b, y + s * a + c * b)));
    pen.closePath();
  };
  const car = (pose, colour, filled) => {
    const [x, y, yaw] = pose;
    box([x + CAR.ahead * Math.cos(yaw), y + CAR.ahead * Math.sin(yaw), yaw], CAR.length, CAR.width);
    pen.lineWidth = 2 * view.ratio; pen.strokeStyle = colour; pen.fillStyle = colour;
    if (filled) pen.fill(); else { pen.globalAlpha = 0.25; pen.fill(); pen.globalAlpha = 1; }
    pen.stroke();
  };
  const line = (points, colour, width, dash = []) => {
    pen.beginPath(); points.forEach(([x, y], i) => pen[i ? 'lineTo' : 'moveTo'](...at(x, y)));
    pen.strokeStyle = colour; pen.lineWidth = width * view.ratio; pen.setLineDash(dash.map((d) => d * view.ratio)); pen.stroke(); pen.setLineDash([]);
  };
  const roads = (step) => {
    const road = scene.road, px = view.ratio;
    if (!road) return;
    for (const [kind, ring] of road.polygons) {
      path(ring, true);
      if (kind) { pen.fillStyle = LV.css(kind === 2 ? 'route' : 'road'); pen.fill(); }
    }
    pen.strokeStyle = LV.css('edge'); pen.lineWidth = 0.6 * px;
    for (const [, ring] of road.polygons) { path(ring, true); pen.stroke(); }
    for (const light of road.lights) if (step >= light.red[0] && step <= light.red[1]) {
      path(light.ring_cm, true); pen.fillStyle = LV.css('red'); pen.globalAlpha = 0.22; pen.fill(); pen.globalAlpha = 1;
    }
    path(road.route_cm, false); pen.strokeStyle = LV.css('centre'); pen.setLineDash([6 * px, 4 * px]); pen.lineWidth = px; pen.stroke();
    pen.setLineDash([1.5 * px, 3 * px]); path(road.reference_cm, false); pen.strokeStyle = LV.css('ink'); pen.stroke(); pen.setLineDash([]);
  };
  const users = (step) => {
    for (const o of scene.objects) {
      if (step < o.steps[0] || step > o.steps[1]) continue;
      const pose = poseAt(o.poses, o.poses.length > 3 ? step - o.steps[0] : 0);
      box(pose, o.size_cm[0] / 100, o.size_cm[1] / 100);
      pen.fillStyle = LV.css(CLASS_COLOUR[o.class] || 'static'); pen.fill();
    }
  };
  const failure = (f, number, t) => {
    const colour = LV.css('bad'), now = f.step < 0 || Math.abs(t - f.step / 10) < 0.36;
    pen.strokeStyle = colour; pen.lineWidth = (now ? 2.5 : 1.2) * view.ratio;
    if (f.stretch_cm) { path(f.stretch_cm, false); pen.lineWidth = 4 * view.ratio; pen.stroke(); }
    for (const ring of [...(f.egos_cm || []), ...(f.shape_cm ? [f.shape_cm] : [])]) { path(ring, true); pen.stroke(); }
    if (!f.place_cm) return;
    const [x, y] = at(f.place_cm[0] / 100, f.place_cm[1] / 100), r = 9 * view.ratio;
    pen.beginPath(); pen.arc(x, y, r * (now ? 1.9 : 1.5), 0, 7); pen.stroke();
    const u = x + (number % 2 ? 1.9 : -1.9) * r, v = y + (number % 4 > 2 || number % 4 === 0 ? 1.9 : -1.9) * r; // not over each other
    pen.beginPath(); pen.arc(u, v, r, 0, 7); pen.fillStyle = colour; pen.fill();
    pen.fillStyle = LV.css('card'); pen.font = `700 ${11 * view.ratio}px system-ui`; pen.textAlign = 'center'; pen.textBaseline = 'middle';
    pen.fillText(number, u, v);
  };
  view.draw = (t, names, failures = []) => {
    fit();
    const step = Math.max(0, Math.min(50, Math.round(t * 10)));
    const human = poseAt(scene.path, indexOf(scene.time_s, t));
    view.ahead = Math.max(0, human[0] - 14) * 0.55;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    roads(step); users(step);
    const way = [];
    for (let i = 0; i < scene.path.length; i += 3) way.push([scene.path[i] / 100, scene.path[i + 1] / 100]);
    line(way, LV.css('ego'), 1.3, [2, 4]);
    for (const name of names) {
      const plan = scene.plans[name];
      if (!plan || !plan.xy_cm) continue;
      const colour = LV.planColour(name), points = planPoints(plan);
      line(points, colour, name === view.first ? 3 : 2);
      for (const [x, y] of points.slice(1)) { pen.beginPath(); pen.arc(...at(x, y), 2.4 * view.ratio, 0, 7); pen.fillStyle = colour; pen.fill(); }
      const pose = t >= 0 && planPose(plan, t);
      if (pose) car(pose, colour, false);
    }
    car(human, LV.css('ego'), names.length === 0 || names.includes('human'));
    failures.forEach((f, k) => failure(f, k + 1, t));
  };
  view.by = (factor) => { view.zoom = Math.max(0.35, Math.min(6, view.zoom * factor)); };
  return view;
};

/* What the colours of the view from above mean. */
LV.aboveKey = (scene) => {
  const item = (kind, style, text) => h('span', {}, h('i', { class: kind, style }), text);
  const road = [item('', 'background:var(--route)', 'route'), item('line', 'border-color:var(--ink);border-top-style:dotted', 'PDM-Closed')];
  const others = [item('', 'background:var(--vehicle)', 'vehicles'), item('', 'background:var(--person)', 'people'), item('', 'background:var(--bike)', 'bicycles')];
  return h('div', { class: 'key' }, item('', 'background:var(--ego)', 'the drive as logged'), scene.objects.length ? others : '',
    scene.road ? [...road, item('', 'border:2px solid var(--bad)', 'where points were lost')] : '');
};

/* A point on the ground, in the ego frame of now, as a share of a picture taken at `pose`; null behind the camera. */
function onPicture(camera, pose, [x, y], z = 0) {
  const c = Math.cos(-pose[2]), s = Math.sin(-pose[2]), dx = x - pose[0], dy = y - pose[1];
  const e = [c * dx - s * dy - camera.position_m[0], s * dx + c * dy - camera.position_m[1], z - camera.position_m[2]];
  const r = camera.rotation, seen = [0, 1, 2].map((k) => e[0] * r[k] + e[1] * r[3 + k] + e[2] * r[6 + k]);
  if (seen[2] < 0.5 || !camera.size_px[0]) return null;
  const k = camera.intrinsics_px;
  return [(k[0] * seen[0] + k[1] * seen[1]) / seen[2] / camera.size_px[0] + k[2] / camera.size_px[0],
    (k[4] * seen[1]) / seen[2] / camera.size_px[1] + k[5] / camera.size_px[1]];
}

/* Plans and failures over the picture below `canvas`. */
LV.overlay = (canvas, scene, cameraName, t, names, failures = []) => {
  const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1, pen = canvas.getContext('2d');
  canvas.width = Math.max(1, box.width * ratio); canvas.height = Math.max(1, box.height * ratio);
  const camera = scene.cameras[cameraName];
  if (!camera) return;
  const frame = Math.floor(indexOf(scene.time_s, t + 1e-6) + 1e-6), pose = poseAt(scene.path, frame);
  const put = (point) => { const p = onPicture(camera, pose, point); return p && [p[0] * canvas.width, p[1] * canvas.height]; };
  for (const name of names) {
    const plan = scene.plans[name], points = plan && plan.points ? plan.points : plan && plan.xy_cm ? planPoints(plan) : name === 'human' ? humanPoints(scene) : [];
    pen.beginPath();
    let down = false;
    for (let i = 0; i + 1 < points.length; i++) for (let f = 0; f < 1; f += 0.1) {
      const p = put([points[i][0] + f * (points[i + 1][0] - points[i][0]), points[i][1] + f * (points[i + 1][1] - points[i][1])]);
      if (p) pen[down ? 'lineTo' : 'moveTo'](...p);
      down = !!p;
    }
    pen.strokeStyle = '#0008'; pen.lineWidth = 6 * ratio; pen.stroke();
    pen.strokeStyle = LV.planColour(name); pen.lineWidth = 3.4 * ratio; pen.lineJoin = 'round'; pen.stroke();
  }
  failures.forEach((f, k) => {
    const p = f.place_cm && put([f.place_cm[0] / 100, f.place_cm[1] / 100]);
    if (!p || p[0] < 0 || p[0] > canvas.width || p[1] < 0 || p[1] > canvas.height * 1.05) return;
    const r = 11 * ratio;
    pen.beginPath(); pen.arc(p[0], Math.min(p[1], canvas.height - r), r, 0, 7); pen.fillStyle = '#b3261e'; pen.fill();
    pen.lineWidth = 2 * ratio; pen.strokeStyle = '#fff'; pen.stroke();
    pen.fillStyle = '#fff'; pen.font = `700 ${12 * ratio}px system-ui`; pen.textAlign = 'center'; pen.textBaseline = 'middle';
    pen.fillText(k + 1, p[0], Math.min(p[1], canvas.height - r));
  });
};
const humanPoints = (scene) => {
  const points = [];
  for (let i = (scene.num_history - 1) * 3; i < scene.path.length; i += 3) points.push([scene.path[i] / 100, scene.path[i + 1] / 100]);
  return points;
};
