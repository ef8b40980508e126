/* What codes mean: all of them, and every moment of one, nearest to the codebook first. */
'use strict';

const PAGE = 60;
const signed = (v) => (v === null || v === undefined ? '–' : `${v < 0 ? '−' : '+'}${Math.abs(v).toFixed(2)}`);
const spread = (pair) => (pair && pair[0] !== null ? ` (80 % of uses ${signed(pair[0])} to ${signed(pair[1])})` : '');
const degrees = (rad) => (rad === null ? '–' : `${Math.abs(rad * 180 / Math.PI).toFixed(1)}° ${rad > 0.002 ? 'left' : rad < -0.002 ? 'right' : ''}`);

LV.pages.codes = (main) => {
  const { of, codes } = LV.index, uses = new Array(16).fill(0);
  let all = 0;
  for (const c of of.label) if (c !== LV.NONE) { uses[c]++; all++; }
  const most = Math.max(...uses, 1);
  const card = (code) => {
    const fact = codes.find((f) => f.code === code);
    return h('a', { class: 'moment card', href: LV.link('code', [code]) },
      h('div', {}, h('span', { class: 'word', style: `background:${LV.codeColour(code)}` }, code), ' ', h('b', {}, fact ? fact.name : `code ${code}`)),
      h('div', { class: 'small' }, h('span', { class: 'bar' }, h('i', { style: `width:${(100 * uses[code]) / most}%` })), ` ${((100 * uses[code]) / (all || 1)).toFixed(1)} % of the codes here`),
      fact ? h('div', { class: 'small soft' }, `speed ${signed(fact.delta_speed_mps)} m/s, heading ${degrees(fact.delta_heading_rad)} · from ${fact.speed_p50_mps === null ? '–' : fact.speed_p50_mps.toFixed(1)} m/s`) : '');
  };
  main.replaceChildren(h('h1', {}, 'Codes'), h('p', { class: 'soft' }, 'The 16 words of the latent action model', LV.index.label_model ? [' ', h('code', {}, LV.index.label_model)] : '',
    '. Nobody named them: names are derived by rule from what goes with each. Click one for every moment that carries it.'),
  h('div', { class: 'grid' }, Array.from({ length: 16 }, (_, i) => card(i))));
};

LV.pages.code = async (main, { rest }) => {
  const code = Number(rest[0]);
  if (!(code >= 0 && code < 16)) throw new Error(`no code ${rest[0]}: codes are 0 to 15`);
  const data = await LV.load(`codes/${code}`);
  const distance = LV.unpack(data.distance_f4, 'f4'), sure = LV.unpack(data.confidence_u8, 'u1'), scene = LV.unpack(data.scene_u4, 'u4'), step = LV.unpack(data.step_u1, 'u1'), position = LV.unpack(data.position_u1, 'u1');
  const { of, logs, tokens, codes, cameras } = LV.index, fact = codes.find((f) => f.code === code), seen = cameras.includes('CAM_F0');
  const grid = h('div', { class: 'grid' });
  let shown = 0;
  const card = (k) => {
    const i = scene[k], log = logs[of.log[i]], first = of.frame[i] + 2 * step[k];
    return h('a', { class: 'moment card', href: LV.link('scene', [tokens[i]], { t: step[k] || '' }), 'data-distance': distance[k] },
      seen ? h('div', { class: 'pair' }, LV.image(LV.picture(log.name, 'CAM_F0', first), 'before'), LV.image(LV.picture(log.name, 'CAM_F0', first + 2), 'one second later')) : '',
      h('div', { class: 'small' }, h('b', { class: 'num' }, `distance ${distance[k].toPrecision(3)}`), ` · confidence ${(sure[k] / 255).toFixed(2)} · pos. ${position[k] + 1}`),
      h('div', { class: 'small soft one' }, `${log.name} · ${((of.time_ds[i]) / 10 + step[k]).toFixed(1)} s`));
  };
  const more = h('button', { onclick: () => add() });
  const add = () => {
    const end = Math.min(distance.length, shown + PAGE);
    for (; shown < end; shown++) grid.append(card(shown));
    more.textContent = `show more (${(distance.length - shown).toLocaleString('en')} left)`; more.hidden = shown >= distance.length;
  };
  const kept = distance.length < data.count ? `; the nearest ${distance.length.toLocaleString('en')} are here` : '';
  main.replaceChildren(h('h1', {}, LV.codeName(code)), h('p', { class: 'soft' }, `${data.count.toLocaleString('en')} moments carry it, nearest to the codebook first${kept}. Two pictures: the second before and after.`),
    fact ? h('p', { class: 'small' }, `In one second: speed ${signed(fact.delta_speed_mps)} m/s${spread(fact.spread_mps)}, heading ${degrees(fact.delta_heading_rad)} · nearest codes `, fact.neighbours.flatMap((n) => [LV.word(n), ' ']), fact.contexts.length ? `· more often than others: ${fact.contexts.join('; ')}` : '') : '',
    h('p', {}, h('a', { href: LV.link('', [], { code }) }, 'scenes with this code'), ' · ', h('a', { href: LV.link('codes') }, 'all codes')), grid, more);
  add();
};
