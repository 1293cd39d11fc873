// Lays out the slides of a chapter: draws the formulas, deals what is too much for one slide over several, fits
// pictures and explorers, gathers the speaker's notes, and starts reveal.js. All sizes are in rem, and a rem is a
// fixed share of the window, so that every screen shows the same slides.

const GAP = 0.7; // rem between two atoms, as in slides.css

async function startSlides() {
  const deck = document.querySelector(".slides");
  await MathJax.startup.promise;
  await MathJax.typesetPromise([deck]);
  await document.fonts.ready;
  for (const section of [...deck.children]) {
    fit(section);
    deal(section);
  }
  deck.querySelectorAll("section").forEach(gatherNotes);
  keys();
  document.body.classList.add("ready");
  await Reveal.initialize({ disableLayout: true, display: "flex", width: 1280, height: 720, margin: 0, center: false,
    hash: true, slideNumber: "c/t", transition: "none", backgroundTransition: "none", scrollActivationWidth: null,
    pdfSeparateFragments: false, plugins: [RevealNotes] });
}

const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);
const room = (section) => {
  const style = getComputedStyle(section), heading = section.querySelector("h1, h2");
  return { width: section.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight),
    height: section.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom)
      - heading.getBoundingClientRect().height - parseFloat(getComputedStyle(heading).marginBottom) };
};

// ---- what stands alone fits its slide ------------------------------------------------------------------------------

function fit(section) {
  const { width, height } = room(section);
  for (const root of section.querySelectorAll(".tb-explorer")) fitExplorer(root, width, height);
  for (const svg of section.querySelectorAll(".tb-picture svg")) {
    const { width: w, height: h } = svg.viewBox.baseVal, line = section.querySelector(".atom > p");
    const free = height - (line ? line.getBoundingClientRect().height + GAP * rem() : 0);
    svg.style.width = `${Math.min(width, free * (w / h)) / rem()}rem`;
  }
  for (const wide of section.querySelectorAll("pre, table, div.math")) {
    const box = wide.closest("div.math, .highlight, table"), has = Math.max(wide.scrollWidth, box.scrollWidth);
    if (has > box.clientWidth + 1 || has > width + 1) box.style.zoom = Math.min(box.clientWidth, width) / (has + 2);
  }
}

// The stage is as large as may be, with the controls above it or beside it.
function fitExplorer(root, width, height) {
  const stage = root.querySelector(".tb-stage");
  const ratio = Math.min(...root.explorer.spec.backgrounds.map((b) => b.ratio));
  const slack = 1.2 * rem(); // a readout may grow by a line
  const measure = (aside) => {
    root.classList.toggle("tb-aside", aside);
    stage.style.width = "1px";
    const rest = root.getBoundingClientRect().height;
    stage.style.width = "100%";
    const across = stage.getBoundingClientRect().width;
    return aside ? (rest + slack > height ? 0 : Math.min(across, height * ratio))
      : Math.min(across, (height - rest - slack) * ratio);
  };
  const above = measure(false), beside = measure(true);
  root.classList.toggle("tb-aside", beside > above);
  stage.style.width = `${Math.max(above, beside) / rem()}rem`;
}

// ---- what is too much goes on the next slide -----------------------------------------------------------------------

function deal(section) {
  const limit = room(section).height, gap = GAP * rem();
  const atoms = [...section.querySelectorAll(":scope > .atoms > .atom")].flatMap((atom) => split(atom, limit));
  const heights = atoms.map((atom) => {
    const height = atom.getBoundingClientRect().height;
    if (height > limit) atom.style.zoom = limit / height;
    return Math.min(height, limit);
  });
  const total = heights.reduce((sum, height) => sum + height + (height && gap), -gap);
  const share = total / Math.ceil(total / limit); // so that the last slide is no orphan
  const pages = [[]];
  let used = 0;
  atoms.forEach((atom, i) => {
    let ahead = heights[i]; // what must not be torn from it
    for (let k = i; atoms[k].querySelector("[data-leads]") && k + 1 < atoms.length; k++) ahead += gap + heights[k + 1];
    if (pages.at(-1).length && heights[i] && (used + Math.min(ahead, limit) > limit + 0.5 || used > share)) {
      if (!atoms[i - 1].querySelector("[data-leads]") || used + heights[i] > limit + 0.5) {
        pages.push([]);
        used = 0;
      }
    }
    pages.at(-1).push(atom);
    used += heights[i] && heights[i] + gap;
  });
  let last = section;
  for (const page of pages.slice(1)) {
    const next = section.cloneNode(false), body = document.createElement("div");
    body.className = "atoms";
    body.append(...page);
    next.append(section.querySelector("h2").cloneNode(true), body);
    last.after(next);
    last = next;
  }
}

// A list, or a box, that is taller than a slide: an atom for each of its items.
function split(atom, limit) {
  if (atom.getBoundingClientRect().height <= limit) return [atom];
  const box = atom.querySelector(":scope > .admonition"), list = (box ?? atom).querySelector(":scope > :is(ul, ol)");
  if (!list || list.children.length < 2) return [atom];
  const rest = atom.cloneNode(true), other = rest.querySelector(box ? ":scope > .admonition > :is(ul, ol)" : ":scope > :is(ul, ol)");
  rest.querySelectorAll("template").forEach((said) => said.remove());
  const half = Math.ceil(list.children.length / 2);
  if (list.tagName === "OL") other.start = list.start + half;
  [...list.children].slice(half).forEach((item) => item.remove());
  [...other.children].slice(0, half).forEach((item) => item.remove());
  for (let node = list.nextElementSibling; node; node = list.nextElementSibling) node.remove();
  atom.after(rest);
  return [...split(atom, limit), ...split(rest, limit)];
}

// ---- the speaker ---------------------------------------------------------------------------------------------------

// The notes' window knows no MathJax: every browser draws MathML by itself.
function gatherNotes(section) {
  const said = [...section.querySelectorAll("template.said")];
  if (!said.length) return;
  const notes = document.createElement("aside");
  notes.className = "notes";
  for (const template of said) {
    for (const formula of template.content.querySelectorAll(".math"))
      formula.innerHTML = MathJax.tex2mml(formula.textContent.replace(/^\s*\\\(|\\\)\s*$/g, ""), { display: false });
    notes.append(template.content);
    const atom = template.closest(".atom");
    template.remove();
    if (!atom.childNodes.length) atom.remove();
  }
  section.append(notes);
}

// ---- keys ----------------------------------------------------------------------------------------------------------

// A control that has the focus keeps the arrow keys; the pages of a presenter's remote turn slides all the same, and
// Escape gives the keys back.
function keys() {
  document.addEventListener("keydown", (event) => {
    const control = event.target.closest?.(".tb-explorer");
    if (!control || !["PageUp", "PageDown", "Escape"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.blur();
    if (event.key === "PageDown") Reveal.next();
    if (event.key === "PageUp") Reveal.prev();
  }, true);
  for (const root of document.querySelectorAll(".tb-explorer")) root.setAttribute("data-prevent-swipe", "");
}
