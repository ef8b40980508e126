/* The page of one drive: its pictures and its codes over the whole way, on one clock. */
'use strict';

function driveNotes(drive) {
  return drive.scenes.flatMap((scene, i) => {
    const frame = drive.frames.indexOf(scene.frame), t = drive.time_s[frame];
    return [0, 1, 2, 3].map((p) => ({ t: t + p * 0.125, until: t + (p + 1) * 0.125, position: p, label: drive.codes.label[i][p],
      teacher: drive.codes.teacher[i][p], student: drive.codes.student[i][p] }));
  });
}

function pathView(drive) {
  const canvas = h('canvas', { class: 'above', role: 'img', 'aria-label': 'the way of this drive from above' });
  const points = [];
  for (let i = 0; i < drive.path.length; i += 3) points.push([drive.path[i] / 100, drive.path[i + 1] / 100]);
  const draw = (index) => {
    const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1, pen = canvas.getContext('2d');
    canvas.width = Math.max(1, box.width * ratio); canvas.height = Math.max(1, box.height * ratio);
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    const wide = Math.max(...xs) - Math.min(...xs), tall = Math.max(...ys) - Math.min(...ys);
    const scale = (Math.min(canvas.width, canvas.height) * 0.86) / Math.max(wide, tall, 20);
    const at = ([x, y]) => [canvas.width / 2 + (x - (Math.max(...xs) + Math.min(...xs)) / 2) * scale, canvas.height / 2 - (y - (Math.max(...ys) + Math.min(...ys)) / 2) * scale];
    pen.beginPath(); points.forEach((p, i) => pen[i ? 'lineTo' : 'moveTo'](...at(p)));
    pen.strokeStyle = LV.css('ego'); pen.lineWidth = 2.5 * ratio; pen.stroke();
    const bar = Math.max(wide, tall, 20) > 200 ? 100 : 10;
    pen.strokeStyle = LV.css('soft'); pen.fillStyle = LV.css('soft'); pen.lineWidth = 2 * ratio;
    pen.beginPath(); pen.moveTo(14 * ratio, canvas.height - 14 * ratio); pen.lineTo(14 * ratio + bar * scale, canvas.height - 14 * ratio); pen.stroke();
    pen.font = `${12 * ratio}px system-ui`; pen.fillText(`${bar} m`, 14 * ratio, canvas.height - 20 * ratio);
    const [x, y] = at([poseAt(drive.path, index)[0], poseAt(drive.path, index)[1]]), yaw = poseAt(drive.path, index)[2];
    pen.save(); pen.translate(x, y); pen.rotate(-yaw); pen.beginPath(); pen.moveTo(12 * ratio, 0); pen.lineTo(-8 * ratio, 7 * ratio); pen.lineTo(-8 * ratio, -7 * ratio); pen.closePath();
    pen.fillStyle = LV.css('accent'); pen.fill(); pen.restore();
  };
  return { canvas, draw };
}

LV.pages.drive = async (main, { rest, query }) => {
  const name = rest.join('/');
  if (!LV.index.logs.some((l) => l.name === name)) throw new Error(`no drive ${name} in this site`);
  const drive = await LV.load(`drives/${LV.fileName(name)}`);
  const cameras = LV.index.cameras.filter((c) => drive.cameras.includes(c)), t = drive.time_s;
  const state = { camera: cameras[0] || '' };
  const image = h('img', { alt: `front camera of drive ${name}` }), path = pathView(drive), at = h('p', { class: 'small' });
  image.onerror = () => { image.style.visibility = 'hidden'; }; image.onload = () => { image.style.visibility = ''; };
  const roll = h('div', { class: 'roll card' });
  let line = { seek: null }, last = -1;
  const sceneAt = (k) => drive.scenes.find((s) => s.frame === drive.frames[k]);
  const onmove = (now) => {
    const k = Math.floor(indexOf(t, now + 1e-6) + 1e-6);
    if (k !== last && state.camera) image.src = LV.picture(drive.log, state.camera, drive.frames[k]);
    if (k !== last) {
      const scene = sceneAt(k);
      at.replaceChildren(`frame ${drive.frames[k]} · ${drive.speed_mps[k]} m/s · `, scene ? h('a', { href: LV.link('scene', [scene.token]) }, `open scene ${scene.token}`) : h('span', { class: 'soft' }, 'no scene starts here'));
    }
    last = k; path.draw(indexOf(t, now)); if (line.seek) line.seek(now); LV.note({ t: now ? now.toFixed(1) : '' });
  };
  const clock = LV.player({ start: t[0], end: t[t.length - 1], step: 0.5, big: 5, at: Number(query.get('t')) || 0, onmove });
  main.replaceChildren(h('div', { class: 'top' }, h('h1', {}, `Drive ${name}`), h('span', { class: 'soft' }, `${drive.split}${drive.city ? ` · ${drive.city}` : ' · no map'} · ${drive.scenes.length} scenes · ${(t[t.length - 1] - t[0]).toFixed(0)} s`)),
    h('div', { class: 'stage' }, h('div', { class: 'view' }, state.camera ? image : h('div', { class: 'none' }, 'no pictures in this site')), h('figure', {}, path.canvas, h('figcaption', {}, 'the way driven, from above'))),
    clock.bar, at, roll, LV.rollKey());
  const brake = drive.acceleration_mps2.map((a) => (a === null ? null : Math.max(0, -a)));
  line = LV.timeline(roll, { times: t, notes: driveNotes(drive), marks: [], signals: [
    { name: 'speed', unit: 'm/s', low: 0, high: 2, lines: [{ t, v: drive.speed_mps, colour: 'var(--ego)' }] },
    { name: 'yaw rate', unit: 'rad/s, left is up', low: -0.1, high: 0.1, lines: [{ t, v: drive.yaw_rate_radps, colour: 'var(--ego)' }] },
    { name: 'brake', unit: 'm/s²', low: 0, high: 1, lines: [{ t, v: brake, colour: 'var(--bad)', area: true }] }],
  onseek: (to) => clock.seek(to), onmark: () => {} });
  clock.seek(clock.t);
  return () => { clock.stop(); line.stop(); };
};
LV.pages.drives = (main) => {
  const { logs, of } = LV.index, count = logs.map(() => 0), seconds = logs.map(() => 0);
  of.log.forEach((l, i) => { count[l]++; seconds[l] = Math.max(seconds[l], of.time_ds[i] / 10); });
  main.replaceChildren(h('h1', {}, `Drives (${logs.length.toLocaleString('en')})`), h('div', { class: 'wide card' }, h('table', {},
    h('thead', {}, h('tr', {}, ['drive', 'split', 'city', 'scenes', 'last scene at'].map((t, k) => h('th', { scope: 'col', class: k < 3 ? 'left' : '' }, t)))),
    h('tbody', {}, logs.map((l, i) => h('tr', {}, h('td', {}, h('a', { href: LV.link('drive', [l.name]) }, l.name)), h('td', { class: 'left' }, l.split), h('td', { class: 'left' }, l.city || 'no map'), h('td', {}, count[i]), h('td', {}, `${seconds[i].toFixed(0)} s`)))))));
};
