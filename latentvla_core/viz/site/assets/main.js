/* Which page an address means. */
'use strict';

let leave = null;
LV.route = async () => {
  const address = LV.address(), main = document.getElementById('main'), page = LV.pages[address.page];
  if (leave) { leave(); leave = null; }
  nav(address);
  try {
    if (!page) throw new Error(`no page ${address.page}`);
    const left = await page(main, address);
    if (LV.address().page === address.page) leave = typeof left === 'function' ? left : null;
    else if (typeof left === 'function') left();
  } catch (error) {
    main.replaceChildren(h('h1', {}, 'Not here'), h('p', {}, error.message + '. '), h('p', {}, h('a', { href: '#/' }, 'All scenes')));
    console.error(error);
  }
  document.title = `${document.querySelector('h1')?.textContent || 'LatentVLA'} · LatentVLA`;
  document.body.dataset.ready = address.page || 'scenes';
  LV.drawn ||= performance.now(); // milliseconds from the start of the navigation
};

function nav(address) {
  const pages = [...(LV.index.tokens.length ? [['', 'scenes'], ['drives', 'drives'], ['codes', 'codes']] : []), ...(LV.metrics().length ? [['compare', 'compare']] : []), ...(LV.index.runs.length ? [['runs', 'runs']] : []), ...LV.index.chapters.map((c) => [`chapter/${c.name}`, c.name])];
  const here = [address.page, ...(address.page === 'chapter' ? address.rest : [])].join('/');
  document.getElementById('nav').replaceChildren(...pages.map(([page, text]) => h('a', { href: '#/' + page, 'aria-current': page === here ? 'page' : null }, text)));
}

/* What writes a chapter's page; `latentvla view` then takes it in. */
const CHAPTERS = { report: 'run latentvla demo', atlas: 'materialise latent_codes and run latentvla view', quality: 'materialise latent_quality and run latentvla view', evidence: 'materialise evidence_summary and run latentvla view' };

LV.pages.chapter = (main, { rest }) => {
  const chapter = LV.index.chapters.find((c) => c.name === rest[0]);
  if (!chapter) throw new Error(`no chapter ${rest[0]} in this site: its page was not written yet when the site was; ${CHAPTERS[rest[0]] || 'there is none of that name'}`);
  main.replaceChildren(h('div', { class: 'top' }, h('h1', {}, chapter.title), h('a', { href: chapter.path, target: '_blank' }, 'alone in a window')), h('iframe', { src: chapter.path, title: chapter.title }));
};

addEventListener('hashchange', () => { scrollTo(0, 0); LV.route(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => LV.route());
LV.load('index').then((index) => { LV.open(index); return LV.route(); }).catch((error) => {
  document.getElementById('main').replaceChildren(h('h1', {}, 'No data'), h('p', {}, error.message + '; the folder is not whole: run latentvla view again.'));
});
