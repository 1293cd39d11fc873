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

// The stage is as large as may be, with the controls and the legend above and below it, or beside it.
function fitExplorer(root, width, height) {
  const stage = root.querySelector(".tb-stage");
  const ratio = Math.min(...root.explorer.spec.backgrounds.map((b) => b.ratio));
  const free = height - 1.3 * rem(); // a readout may grow by a line
  const tall = (...names) => names.reduce(
    (sum, name) => sum + root.querySelector(name).getBoundingClientRect().height + 0.4 * rem(), 0);
  const measure = (aside) => {
    root.classList.toggle("tb-aside", aside);
    stage.style.width = "100%";
    const across = Math.min(stage.getBoundingClientRect().width, width);
    const [controls, readout] = [tall(".tb-controls", ".tb-legend"), tall(".tb-readout")];
    if (!aside) return Math.min(across, (free - controls - readout) * ratio);
    return controls + readout > free ? 0 : Math.min(across, (free - readout) * ratio);
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

// A list, a table or a text that is taller than a slide: as many atoms as it takes, of about the same height. What
// stands below it goes with the last.
function split(atom, limit) {
  const height = atom.getBoundingClientRect().height, list = atom.querySelector("ul, ol, tbody"), pre = atom.querySelector("pre");
  if (limit / height > 0.85) return [atom]; // then it is drawn a little smaller
  const lines = list ? [] : (pre?.textContent.trimEnd().split("\n") ?? []);
  if ((list ? list.children.length : lines.length) < 4) return [atom];
  const rest = atom.cloneNode(true);
  rest.querySelectorAll("template").forEach((said) => said.remove());
  if (list) {
    const half = Math.ceil(list.children.length / Math.ceil(height / limit)), other = rest.querySelector("ul, ol, tbody");
    if (list.tagName === "OL") other.start = list.start + half;
    [...list.children].slice(half).forEach((item) => item.remove());
    [...other.children].slice(0, half).forEach((item) => item.remove());
    atom.querySelector("caption")?.remove();
    for (let node = list.closest("table") ?? list; node !== atom; node = node.parentElement)
      while (node.nextElementSibling) node.nextElementSibling.remove();
    for (let node = other.closest("table") ?? other; node !== rest; node = node.parentElement)
      while (node.previousElementSibling && !node.previousElementSibling.matches(".admonition-title"))
        node.previousElementSibling.remove();
  } else { // at the blank line nearest to the middle
    const middle = lines.length / 2, far = (i) => Math.abs(i - middle) + (lines[i].trim() ? lines.length : 0);
    const half = lines.reduce((best, _, i) => (far(i) < far(best) ? i : best), 0);
    pre.textContent = lines.slice(0, half).join("\n").trimEnd();
    rest.querySelector("pre").textContent = lines.slice(half).join("\n").replace(/^\s*\n/, "");
  }
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
    const part = notes.appendChild(document.createElement("div"));
    part.append(template.content);
    part.innerHTML = part.innerHTML.replace(/\\\((.*?)\\\)/gs, (_, formula) => {
      const tex = document.createElement("textarea"); // which turns &lt; into <
      tex.innerHTML = formula;
      return MathJax.tex2mml(tex.value, { display: false });
    });
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
