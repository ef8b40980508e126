/* The clock of a page: play, pause, step, keyboard. */
'use strict';

/* `onmove(t)` draws; returns {bar, seek, stop}. */
LV.player = ({ start, end, step, big, at, onmove, keys = {} }) => {
  let t = at, playing = false, last = 0, speed = 1;
  const out = h('output', { class: 'num', 'aria-live': 'off' });
  const range = h('input', { type: 'range', min: start, max: end, step: 0.05, value: t, 'aria-label': 'time in seconds',
    oninput: () => seek(Number(range.value)) });
  const button = h('button', { id: 'play', 'aria-pressed': 'false', onclick: () => toggle() }, '▶ play');
  const rate = h('select', { 'aria-label': 'speed of play', onchange: () => { speed = Number(rate.value); } },
    [0.25, 0.5, 1, 2, 4].map((v) => h('option', { value: v, selected: v === 1 }, `${v} ×`)));
  const seek = (to) => {
    t = Math.max(start, Math.min(end, to));
    range.value = t; out.textContent = `${t.toFixed(1)} s`;
    onmove(t);
  };
  const tick = (now) => {
    if (!playing) return;
    const next = t + ((now - last) / 1000) * speed;
    last = now;
    if (next >= end) { seek(end); toggle(false); return; }
    seek(next); requestAnimationFrame(tick);
  };
  const toggle = (on = !playing) => {
    playing = on;
    button.textContent = on ? '❚❚ pause' : '▶ play'; button.setAttribute('aria-pressed', on);
    if (on) { if (t >= end - 1e-3) t = start; last = performance.now(); requestAnimationFrame(tick); }
  };
  const onkey = (e) => {
    if (e.target.closest('select, input:not([type=range]), textarea') || e.ctrlKey || e.metaKey || e.altKey) return;
    const by = e.shiftKey ? big : step;
    const known = { ' ': () => toggle(), ArrowRight: () => { toggle(false); seek(t + by); }, ArrowLeft: () => { toggle(false); seek(t - by); },
      Home: () => seek(start), End: () => seek(end), ...keys }[e.key];
    if (known && !(e.key === ' ' && e.target.closest('button, a'))) { e.preventDefault(); known(e); }
  };
  document.addEventListener('keydown', onkey);
  const bar = h('div', { class: 'clock' },
    h('button', { onclick: () => seek(t - step), 'aria-label': 'one step back' }, '◀'), button,
    h('button', { onclick: () => seek(t + step), 'aria-label': 'one step on' }, '▶'), range, out, rate);
  return { bar, seek, toggle, get t() { return t; }, stop: () => { playing = false; document.removeEventListener('keydown', onkey); } };
};
