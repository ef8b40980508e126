/* What all pages share: data files, packed columns, addresses, small pieces of HTML. */
'use strict';

const LV = { values: {}, waiting: {}, pages: {}, index: null };

/* A data file hands its value over here. */
LV.put = (key, value) => {
  LV.values[key] = value;
  if (LV.waiting[key]) LV.waiting[key].done(value);
};

/* The value of data/<key>.js: a script, because a browser may not fetch JSON from disk. */
LV.load = (key) => {
  if (key in LV.values) return Promise.resolve(LV.values[key]);
  if (!LV.waiting[key]) {
    const entry = {};
    entry.promise = new Promise((done, failed) => {
      entry.done = done;
      const script = document.createElement('script');
      script.src = 'data/' + key.split('/').map(encodeURIComponent).join('/') + '.js';
      script.onerror = () => { delete LV.waiting[key]; failed(new Error(script.src + ' is not there')); };
      document.head.append(script);
    });
    LV.waiting[key] = entry;
  }
  return LV.waiting[key].promise;
};

/* As file_name in files.py. */
LV.fileName = (name) => {
  const coded = encodeURIComponent(name)
    .replace(/[!'()*~]/g, (c) => '%' + c.charCodeAt(0).toString(16).toUpperCase())
    .replace(/%40/g, '@').replace(/%2B/g, '+').replace(/%3D/g, '=').replace(/%2C/g, ',')
    .replace(/%/g, '~');
  return coded.startsWith('.') || coded === '' ? '~' + coded : coded;
};

const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
LV.unpack = (text, kind) => {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new KINDS[kind](bytes.buffer);
};

/* Address of a page: #/scene/abc?plan=ipad. */
LV.address = () => {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const parts = path.split('/').filter(Boolean).map(decodeURIComponent);
  return { page: parts[0] || '', rest: parts.slice(1), query: new URLSearchParams(query || '') };
};
LV.link = (page, rest = [], query = {}) => {
  const kept = Object.entries(query).filter(([, v]) => v !== '' && v !== null && v !== undefined);
  const text = new URLSearchParams(kept).toString();
  const path = [page, ...rest].filter((p) => p !== '').map(encodeURIComponent).join('/');
  return '#/' + path + (text ? '?' + text : '');
};
/* Change the address without leaving the page. */
LV.note = (query) => {
  const { page, rest } = LV.address();
  history.replaceState(null, '', LV.link(page, rest, query));
};

/* An element: h('a', {href: '#'}, 'text', child, …). */
const h = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== '' && c !== false));
  return element;
};
const esc = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/* Words and colours. */
LV.COMMANDS = ['left', 'forward', 'right', 'unknown'];
LV.ARROWS = ['↰', '↑', '↱', '·'];
LV.NONE = 255;
LV.codeColour = (code) => `hsl(${(code * 67.5) % 360} 62% ${code % 2 ? 66 : 74}%)`;
LV.isDark = () => matchMedia('(prefers-color-scheme: dark)').matches;
LV.css = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
const SPARE = ['#0f8b8d', '#9a5fb5', '#c2703d', '#5a7d2a', '#b5446e', '#3d6fb6'];
LV.planColour = (name) => {
  const known = LV.index && LV.index.colours[name.split('@')[0]];
  let code = 0;
  for (const c of name) code = (code * 31 + c.charCodeAt(0)) >>> 0;
  const colour = known && !name.includes('@') ? known : SPARE[code % SPARE.length];
  return LV.isDark() ? lighter(colour) : colour;
};
const lighter = (hex) => {
  const part = (i) => Math.round(parseInt(hex.slice(i, i + 2), 16) * 0.62 + 255 * 0.38);
  return `rgb(${part(1)} ${part(3)} ${part(5)})`;
};
LV.score = (value) => (value === null || value === undefined ? '–' : value === 1 ? '1' : value === 0 ? '0' : value.toFixed(2));
LV.bar = (value) => {
  const kind = value < 0.5 ? 'low' : value < 0.9 ? 'mid' : 'high';
  return h('span', { class: 'bar ' + kind, 'aria-hidden': 'true' }, h('i', { style: `width:${value * 100}%` }));
};
LV.picture = (log, camera, frame) => `pictures/${encodeURIComponent(LV.fileName(log))}/${camera}/${frame}.jpg`;
/* A picture that is not there becomes a tile that says so. */
LV.image = (src, alt, attributes = {}) => {
  const image = h('img', { src, alt, loading: 'lazy', decoding: 'async', ...attributes });
  image.onerror = () => image.replaceWith(h('span', { class: 'noimg' }, 'no picture'));
  return image;
};
LV.word = (code, position = '') => code === LV.NONE
  ? h('span', { class: 'word none', title: 'no code' }, '–')
  : h('a', { class: 'word', href: LV.link('code', [code]), style: `background:${LV.codeColour(code)}`,
    title: LV.codeName(code) + (position === '' ? '' : `, position ${position}`) }, code);
LV.codeName = (code) => {
  const fact = LV.index.codes.find((f) => f.code === code);
  return fact ? `code ${code}: ${fact.name}` : `code ${code}`;
};
LV.sentence = (codes) => h('span', { class: 'words' }, [0, 1, 2].map((step) =>
  h('span', {}, [0, 1, 2, 3].map((p) => LV.word(codes[step * 4 + p], p + 1)))));

/* Columns of the index, unpacked once. */
LV.open = (index) => {
  const kinds = { log: 'u2', frame: 'u2', time_ds: 'u2', command: 'u1', speed_cmps: 'u2', label: 'u1',
    teacher: 'u1', student: 'u1', picture: 'u1' };
  index.of = {};
  for (const [name, kind] of Object.entries(kinds)) index.of[name] = LV.unpack(index.columns[name], kind);
  index.byPlan = {};
  for (const s of index.scores) {
    const metric = (index.byPlan[s.metric] ||= {});
    metric[s.planner] = { score: LV.unpack(s.score_u8, 'u1'), lost: LV.unpack(s.lost_u16, 'u2') };
  }
  index.number = new Map(index.tokens.map((token, i) => [token, i]));
  LV.index = index;
};
LV.metrics = () => Object.keys(LV.index.metrics);
LV.BASELINES = ['human', 'constant_velocity', 'stand_still', 'blind', 'pdm_closed', 'ego_status_mlp'];
