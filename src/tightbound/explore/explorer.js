// One renderer, two lives. On a kernel, `model` is the widget's, and Python answers. In a page, `model` is a
// StaticModel, which answers from a lattice of stops or from a network's weights. Both know get, on and send.

export function render({ model, el }) {
  const spec = model.get("spec");
  const root = el.classList.contains("tb-explorer") ? el : el.appendChild(make("div", "tb tb-explorer"));
  root.replaceChildren(make("style", "", spec.css));
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab would take the arrow keys for itself
  root.addEventListener("keydown", (event) => event.stopPropagation());

  let params = structuredClone(model.get("params"));
  let frame = readFrame(model.get("frame"));
  // What was asked last, and when; how many answers are to come; whether the hand has moved on since.
  let asked = params, when = 0, waiting = 0, newer = false;

  if (spec.title) root.append(make("p", "tb-title", spec.title));
  const panel = root.appendChild(make("div", "tb-controls"));
  const stage = root.appendChild(make("div", "tb-stage"));
  const back = stage.appendChild(make("div", "tb-back"));
  stage.setAttribute("role", "img");
  stage.setAttribute("aria-label", spec.alt);
  const canvas = stage.appendChild(make("canvas"));
  root.append(legend(spec));
  const readout = root.appendChild(make("div", "tb-readout"));
  readout.setAttribute("aria-live", "polite");

  const ask = (changed) => {
    params = { ...params, ...changed };
    for (const control of controls) control.show(params);
    newer = true;
    if (performance.now() - when > 5000) waiting = 0; // an answer may be lost with its connection
    if (!waiting) request();
  };
  const request = () => { // the newest wins: one is answered, at most one more stands in line
    newer = false;
    if (Object.keys(params).every((name) => String(params[name]) === String(asked[name]))) return;
    [asked, when] = [params, performance.now()];
    waiting += 1;
    model.send({ params }, { iopub: { status: started } });
  };
  // The kernel says "busy" and then answers. A notebook server holds the answer back until that small packet is
  // acknowledged, and a browser with nothing to say acknowledges 40 ms late (Nagle's algorithm meets delayed
  // acknowledgement). So it says something.
  const started = (message) => {
    if (message.content.execution_state !== "busy") return;
    if (newer) request(); else model.send({});
  };
  const controls = Object.entries(spec.controls).map(([name, control]) =>
    MAKERS[control.type]({ name, control, spec, panel, stage, ask, params: () => params, axes: () => place().axes }));
  const reset = panel.appendChild(make("button", "tb-reset", "Reset"));
  reset.type = "button";
  reset.addEventListener("click", () => {
    for (const control of controls) control.stop?.();
    ask(Object.fromEntries(Object.entries(spec.controls).map(([name, control]) => [name, control.value])));
  });

  let shown = null;
  const place = () => spec.backgrounds.find((b) => b.at.every((value, i) => value === frame.values[spec.switches[i]]));
  const draw = () => {
    const background = place();
    if (shown !== background) {
      stage.style.aspectRatio = String(background.ratio);
      back.innerHTML = background.svg;
      back.firstElementChild.setAttribute("aria-hidden", "true");
      shown = background;
    }
    for (const control of controls) control.show(params);
    paint(canvas, stage, root, spec, frame.error ? [] : spec.marks, background, frame.values);
    readout.replaceChildren(...(frame.error ? [make("p", "tb-error", frame.error)]
      : spec.readout.map((template) => make("p", "", fill(template, frame.values)))));
  };
  const onFrame = () => {
    frame = readFrame(model.get("frame"));
    waiting = Math.max(waiting - 1, 0);
    if (newer && !waiting) request();
    draw();
    root.dispatchEvent(new CustomEvent("tb-drawn"));
  };
  const onParams = () => { // set from Python, or linked to another widget
    if (waiting) return;
    asked = params = structuredClone(model.get("params"));
    for (const control of controls) control.show(params);
  };
  model.on("change:frame", onFrame);
  model.on("change:params", onParams);
  const resized = new ResizeObserver(draw);
  resized.observe(stage);
  const themed = new MutationObserver(() => requestAnimationFrame(draw)); // JupyterLab hides all while it changes clothes
  for (const node of [document.documentElement, document.body])
    themed.observe(node, { attributes: true, attributeFilter: ["data-theme", "data-mode", "data-jp-theme-light"] });
  const media = ["(prefers-color-scheme: dark)", "print"].map((query) => matchMedia(query));
  for (const query of media) query.addEventListener("change", draw);
  draw();

  root.explorer = { spec, ask, get params() { return params; }, get frame() { return frame.values; },
    get busy() { return newer || waiting > 0; } }; // for tests and for the curious
  return () => {
    resized.disconnect();
    themed.disconnect();
    for (const query of media) query.removeEventListener("change", draw);
    for (const control of controls) control.stop?.();
    model.off?.("change:frame", onFrame);
    model.off?.("change:params", onParams);
  };
}
export default { render };

function readFrame(message) {
  const values = { ...message.at };
  for (const [name, { shape, data }] of Object.entries(message.arrays ?? {})) {
    const numbers = data instanceof Float64Array ? data
      : new Float64Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
    values[name] = Object.assign(numbers, { shape });
  }
  return { values, error: message.error };
}

// ---- controls ------------------------------------------------------------------------------------------------------

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}
function labelled(panel, text, input) {
  const box = panel.appendChild(make("div", "tb-control"));
  const label = box.appendChild(make("label", "", text));
  input.id = label.htmlFor = `tb-${Math.random().toString(36).slice(2)}`; // other explorers share the page
  box.append(input);
  return box;
}
const show = (number) => String(Number.isInteger(number) ? number : Number(number.toPrecision(4))).replace("-", "−");
const nearest = (stops, value) =>
  stops.reduce((best, stop, i) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best), 0);

function slider(panel, text, stops, move) {
  const input = make("input");
  Object.assign(input, { type: "range", min: 0, max: stops.length - 1, step: 1 });
  const box = labelled(panel, text, input);
  const output = box.appendChild(make("output"));
  output.htmlFor = input.id;
  input.addEventListener("input", () => move(stops[Number(input.value)]));
  return { box, input, show(value) {
    input.value = nearest(stops, value);
    output.textContent = show(value);
    input.setAttribute("aria-valuetext", show(value));
  } };
}

const MAKERS = {
  slider({ name, control, panel, ask, params }) {
    const part = slider(panel, control.label, control.stops, (value) => { pause(); ask({ [name]: value }); });
    let timer = null, button = null;
    const pause = () => { clearInterval(timer); timer = null; if (button) mark(false); };
    const mark = (playing) => { // while it plays, a screen reader is not told every step
      panel.parentElement.querySelector(".tb-readout").setAttribute("aria-live", playing ? "off" : "polite");
      button.textContent = playing ? "❚❚" : "▶";
      button.setAttribute("aria-label", `${playing ? "Pause" : "Play"}: ${control.label}`);
    };
    const play = () => {
      mark(true);
      timer = setInterval(() => {
        if (!part.input.isConnected) return pause();
        const at = nearest(control.stops, params()[name]);
        ask({ [name]: control.stops[(at + 1) % control.stops.length] });
      }, Math.max(60, Math.min(400, 6000 / control.stops.length)));
    };
    if (control.play) {
      button = part.box.appendChild(make("button"));
      button.type = "button";
      mark(false);
      button.addEventListener("click", () => (timer ? pause() : play()));
      if (control.play === "auto" && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
    }
    return { show: (values) => part.show(values[name]), stop: pause };
  },
  choice({ name, control, panel, ask }) {
    const input = make("select");
    for (const option of control.stops) input.add(new Option(option, option));
    labelled(panel, control.label, input);
    input.addEventListener("change", () => ask({ [name]: input.value }));
    return { show: (values) => { input.value = values[name]; } };
  },
  toggle({ name, control, panel, ask }) {
    const input = make("input");
    input.type = "checkbox";
    labelled(panel, control.label, input);
    input.addEventListener("change", () => ask({ [name]: input.checked }));
    return { show: (values) => { input.checked = values[name]; } };
  },
  point({ name, control, spec, panel, stage, ask, params, axes: all }) {
    const parts = ["x", "y"].map((key, i) => slider(panel, `${control.label}, ${control.names[i]}`, control[key], (value) =>
      ask({ [name]: i ? [params()[name][0], value] : [value, params()[name][1]] })));
    const handle = stage.appendChild(make("div", "tb-handle")); // for pointers; the two sliders serve the keyboard
    handle.title = `drag: ${control.label}`;
    const axes = () => all()[control.axes];
    const drag = (event) => {
      const box = stage.getBoundingClientRect();
      const at = toData(axes(), (event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height);
      ask({ [name]: ["x", "y"].map((key, i) =>
        Math.min(Math.max(at[i], control[key][0]), control[key][control[key].length - 1])) });
    };
    handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) drag(event); });
    if (spec.functions?.some((f) => f.type === "lattice" && f.inputs.includes(name))) // it settles where numbers are exact
      handle.addEventListener("lostpointercapture", () => ask({ [name]: ["x", "y"].map((key, i) =>
        control[key][nearest(control[key], params()[name][i])]) }));
    return { show(values) {
      const [x, y] = values[name];
      parts.forEach((part, i) => part.show(values[name][i]));
      handle.style.left = `${100 * toFraction(axes(), 0, x)}%`;
      handle.style.top = `${100 * (1 - toFraction(axes(), 1, y))}%`;
    } };
  },
  drawing({ name, control, panel, stage, ask, params, axes: all }) {
    const [rows, columns] = control.shape;
    const choose = make("select"); // pictures to start from, and a word for what no picture is
    for (const picture of ["", ...control.stops]) choose.add(new Option(picture || "(drawn)", picture));
    choose.options[0].hidden = true;
    const box = labelled(panel, control.label, choose);
    choose.addEventListener("change", () => ask({ [name]: control.pictures[choose.value] }));
    const button = (text, act) => {
      const made = box.appendChild(make("button", "", text));
      made.type = "button";
      made.addEventListener("click", act);
      return made;
    };
    button("Clear", () => ask({ [name]: Array(rows * columns).fill(0) }));
    let rubbing = false;
    const rubber = button("Rubber", () => hold(!rubbing));
    const hold = (rub) => { rubbing = rub; rubber.setAttribute("aria-pressed", String(rub)); };
    hold(false);

    const sheet = stage.appendChild(make("div", "tb-sheet"));
    const pen = sheet.appendChild(make("div", "tb-pen"));
    let at = [columns / 2, rows / 2]; // in pixels, from the left and from above
    const words = () => `${control.label}: ${columns} by ${rows} pixels, ${params()[name].filter((v) => v >= 0.5).length} inked, `
      + `pen at column ${Math.floor(at[0]) + 1}, row ${Math.floor(at[1]) + 1}. Arrow keys move the pen, with Shift they draw, `
      + "with Alt they rub out; Delete clears.";
    Object.assign(sheet, { tabIndex: 0, title: `draw: ${control.label}` });
    sheet.setAttribute("role", "application");
    const stroke = (from, to, rub) => { // along a straight line: full ink within a pixel of it, none beyond two
      const [dx, dy] = [to[0] - from[0], to[1] - from[1]], square = dx * dx + dy * dy;
      ask({ [name]: params()[name].map((old, i) => {
        const [x, y] = [(i % columns) + 0.5 - from[0], Math.floor(i / columns) + 0.5 - from[1]];
        const t = square ? Math.min(Math.max((x * dx + y * dy) / square, 0), 1) : 0;
        const ink = Math.min(Math.max(2 - Math.hypot(x - t * dx, y - t * dy), 0), 1);
        return Math.round(100 * (rub ? Math.min(old, 1 - ink) : Math.max(old, ink))) / 100;
      }) });
    };
    const move = (to) => {
      at = [Math.min(Math.max(to[0], 0), columns - 0.01), Math.min(Math.max(to[1], 0), rows - 0.01)];
      pen.style.left = `${(100 * at[0]) / columns}%`;
      pen.style.top = `${(100 * at[1]) / rows}%`;
      sheet.setAttribute("aria-label", words());
    };
    const under = (event) => {
      const place = sheet.getBoundingClientRect();
      return [((event.clientX - place.left) / place.width) * columns, ((event.clientY - place.top) / place.height) * rows];
    };
    sheet.addEventListener("pointerdown", (event) => {
      sheet.setPointerCapture(event.pointerId);
      event.preventDefault();
      sheet.focus({ preventScroll: true });
      move(under(event));
      stroke(at, at, rubbing || event.button === 2);
    });
    sheet.addEventListener("pointermove", (event) => {
      if (!sheet.hasPointerCapture(event.pointerId)) return;
      const from = at;
      move(under(event));
      stroke(from, at, rubbing || (event.buttons & 2) > 0);
    });
    sheet.addEventListener("contextmenu", (event) => event.preventDefault());
    const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    sheet.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (step) {
        const from = at;
        move([at[0] + step[0], at[1] + step[1]]);
        if (event.shiftKey || event.altKey) stroke(from, at, event.altKey);
      } else if (event.key === " ") stroke(at, at, rubbing);
      else if (event.key === "Delete" || event.key === "Backspace") ask({ [name]: Array(rows * columns).fill(0) });
      else return;
      event.preventDefault();
    });
    return { show(values) {
      const axes = all()[control.axes], [x0, x1, y0, y1] = control.extent;
      const left = toFraction(axes, 0, x0), bottom = toFraction(axes, 1, y0);
      Object.assign(sheet.style, { left: `${100 * left}%`, bottom: `${100 * bottom}%`,
        width: `${100 * (toFraction(axes, 0, x1) - left)}%`, height: `${100 * (toFraction(axes, 1, y1) - bottom)}%` });
      const text = String(values[name]);
      choose.value = control.stops.find((picture) => String(control.pictures[picture]) === text) ?? "";
      move(at);
    } };
  },
};

function legend(spec) {
  const list = make("ul", "tb-legend");
  for (const mark of spec.marks.filter((m) => m.label)) {
    const item = list.appendChild(make("li"));
    const dash = (spec.dashes[mark.role] ?? []).map((d) => 2 * d).join(" ");
    const sign = { area: `<rect y="2" width="35" height="8" fill="var(--tb-${mark.role})" opacity=".45"/>`,
      points: { circle: `<circle cx="18" cy="6" r="4" fill="var(--tb-${mark.role})"/>`,
        square: `<rect x="14" y="2" width="8" height="8" fill="var(--tb-${mark.role})"/>`,
        cross: `<path d="M14 2l8 8m0 -8l-8 8" stroke="var(--tb-${mark.role})" stroke-width="2"/>` }[mark.shape],
      arrows: `<path d="M0 6h27" stroke="var(--tb-${mark.role})" stroke-width="2.5"/>
        <path d="M35 6l-9-4.5v9z" fill="var(--tb-${mark.role})"/>`,
    }[mark.type]
      ?? `<line x1="0" x2="35" y1="6" y2="6" stroke="var(--tb-${mark.role})" stroke-width="2.5" stroke-dasharray="${dash}"/>`;
    item.innerHTML = `<svg viewBox="0 0 35 12" aria-hidden="true">${sign}</svg>`;
    item.append(mark.label);
  }
  return list;
}

// ---- drawing -------------------------------------------------------------------------------------------------------

const sides = [["left", "width", "x"], ["bottom", "height", "y"]];
function toFraction(axes, i, value) { // data coordinate -> fraction of the figure, from the left or from below
  const [start, size, limits] = sides[i], [low, high] = axes[limits];
  const scale = axes.log[i] ? (v) => Math.log(Math.max(v, Number.MIN_VALUE)) : (v) => v; // zero: far below the picture
  return axes[start] + (axes[size] * (scale(value) - scale(low))) / (scale(high) - scale(low));
}
function toData(axes, ...fractions) {
  return fractions.map((fraction, i) => {
    const [start, size, limits] = sides[i], [low, high] = axes[limits], part = (fraction - axes[start]) / axes[size];
    return axes.log[i] ? low * (high / low) ** part : low + part * (high - low);
  });
}

function paint(canvas, stage, root, spec, marks, background, values) {
  const width = stage.clientWidth, height = width / background.ratio, ratio = window.devicePixelRatio || 1;
  if (!width) return;
  const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  const style = getComputedStyle(root);
  const unit = width / (background.width * 100); // sizes are given for a figure at 100 pixels an inch
  const point = Math.max(unit, 0.7) * (100 / 72); // widths and text in points, as matplotlib has them
  for (const mark of marks) {
    const axes = background.axes[mark.axes];
    const X = (v) => width * toFraction(axes, 0, v), Y = (v) => height * (1 - toFraction(axes, 1, v));
    const get = (data) => (typeof data === "string" ? values[data] : constant(data));
    ctx.save();
    ctx.beginPath();
    ctx.rect(X(axes.x[0]), Y(axes.y[1]), X(axes.x[1]) - X(axes.x[0]), Y(axes.y[0]) - Y(axes.y[1]));
    if (mark.type !== "text") ctx.clip();
    ctx.strokeStyle = ctx.fillStyle = style.getPropertyValue(`--tb-${mark.role}`).trim();
    ctx.lineWidth = (mark.width ?? 2) * point;
    ctx.setLineDash((spec.dashes[mark.role] ?? []).map((d) => d * ctx.lineWidth));
    ctx.lineJoin = "round";
    PAINTERS[mark.type]({ ctx, mark, axes, X, Y, get, values, unit, size: (10 * point).toFixed(1), style });
    ctx.restore();
  }
}

function trace(ctx, n, x, y) { // a path through points; one that is not finite lifts the pen
  ctx.beginPath();
  for (let i = 0, down = false; i < n; i++) {
    const px = x(i), py = y(i);
    if (!Number.isFinite(px) || !Number.isFinite(py)) { down = false; continue; }
    if (down) ctx.lineTo(px, py); else ctx.moveTo(px, py);
    down = true;
  }
}
// A mark's array that never changes: numbers with their shape, null where one is not finite.
const constant = ({ shape, data }) => Object.assign(Float64Array.from(data, (v) => v ?? NaN), { shape });
const at = (array, i) => array[array.length === 1 ? 0 : i]; // a single number stands for as many as there are
const longest = (...arrays) => Math.max(...arrays.map((array) => array.length));

const PAINTERS = {
  line({ ctx, mark, X, Y, get }) {
    const x = get(mark.x), y = get(mark.y);
    trace(ctx, longest(x, y), (i) => X(at(x, i)), (i) => Y(at(y, i)));
    ctx.stroke();
  },
  area({ ctx, mark, X, Y, get }) {
    const x = get(mark.x), low = get(mark.low), high = get(mark.high), n = longest(x, low, high);
    ctx.globalAlpha = mark.alpha;
    const stands = (i) => [x, low, high].every((array) => Number.isFinite(at(array, i)));
    for (let i = 0, j; i < n; i = j + 1) { // a polygon for each stretch without NaN: along the top, back along the bottom
      for (j = i; j < n && stands(j); ) j++;
      const m = j - i;
      trace(ctx, 2 * m, (k) => X(at(x, k < m ? i + k : j - 1 - (k - m))),
        (k) => Y(k < m ? at(high, i + k) : at(low, j - 1 - (k - m))));
      ctx.fill();
    }
  },
  points({ ctx, mark, X, Y, get, unit }) {
    const x = get(mark.x), y = get(mark.y), size = get(mark.size);
    ctx.globalAlpha = mark.alpha;
    ctx.setLineDash([]);
    for (let i = 0; i < longest(x, y, size); i++) {
      const px = X(at(x, i)), py = Y(at(y, i)), r = at(size, i) * Math.max(unit, 0.7);
      if (![px, py, r].every(Number.isFinite)) continue;
      ctx.beginPath();
      if (mark.shape === "circle") { ctx.arc(px, py, r, 0, 2 * Math.PI); ctx.fill(); }
      else if (mark.shape === "square") ctx.fillRect(px - r, py - r, 2 * r, 2 * r);
      else {
        for (const s of [-1, 1]) { ctx.moveTo(px - r, py - s * r); ctx.lineTo(px + r, py + s * r); }
        ctx.stroke();
      }
    }
  },
  arrows({ ctx, mark, X, Y, get }) {
    const ends = [mark.x, mark.y, mark.dx, mark.dy].map(get);
    ctx.setLineDash([]);
    for (let i = 0; i < longest(...ends); i++) {
      const [x, y, dx, dy] = ends.map((array) => at(array, i));
      const [px, py, qx, qy] = [X(x), Y(y), X(x + dx), Y(y + dy)];
      if (![px, py, qx, qy].every(Number.isFinite)) continue;
      const turn = Math.atan2(qy - py, qx - px), head = Math.min(9, Math.hypot(qx - px, qy - py));
      ctx.beginPath(); ctx.moveTo(px, py); ctx.lineTo(qx, qy); ctx.stroke();
      ctx.beginPath(); ctx.moveTo(qx, qy);
      for (const s of [-0.45, 0.45]) ctx.lineTo(qx - head * Math.cos(turn + s), qy - head * Math.sin(turn + s));
      ctx.closePath(); ctx.fill();
    }
  },
  ellipse({ ctx, mark, axes, X, Y, get }) {
    const [mx, my] = get(mark.mean), [a, b, , c] = get(mark.covariance);
    const l = Math.sqrt(a), k = b / l, m = Math.sqrt(c - k * k); // its Cholesky factor
    const [fx, fy] = axes.log.map((log) => (log ? Math.exp : (v) => v));
    for (const radius of mark.radii) {
      trace(ctx, 97, (i) => X(fx(mx + radius * l * Math.cos((i * Math.PI) / 48))),
        (i) => Y(fy(my + radius * (k * Math.cos((i * Math.PI) / 48) + m * Math.sin((i * Math.PI) / 48)))));
      ctx.stroke();
    }
  },
  heatmap({ ctx, mark, X, Y, get, values }) {
    const z = get(mark.z), [rows, columns] = z.shape;
    const steps = mark.palette.length - 1;
    bitmap(ctx, mark, X, Y, rows, columns, true, (i, rgba) => {
      const t = Math.min(Math.max((z[i] - mark.low) / (mark.high - mark.low), 0), 1) * steps;
      if (!Number.isFinite(t)) return void (rgba[3] = 0);
      const j = Math.min(Math.floor(t), steps - 1);
      for (let k = 0; k < 3; k++) rgba[k] = mark.palette[j][k] + (t - j) * (mark.palette[j + 1][k] - mark.palette[j][k]);
      rgba[3] = 255 * mark.alpha;
    });
  },
  image({ ctx, mark, X, Y, get }) {
    const z = get(mark.z), [rows, columns, depth] = z.shape;
    bitmap(ctx, mark, X, Y, rows, columns, false, (i, rgba) => {
      for (let k = 0; k < 3; k++) rgba[k] = 255 * Math.min(Math.max(depth === 3 ? z[3 * i + k] : z[i], 0), 1);
      rgba[3] = 255;
    });
  },
  text({ ctx, mark, X, Y, get, values, size, style }) {
    const x = X(get(mark.x)[0]), y = Y(get(mark.y)[0]);
    if (!Number.isFinite(x) || !Number.isFinite(y)) return;
    ctx.font = `${size}px ${style.fontFamily || "sans-serif"}`;
    ctx.textAlign = mark.align;
    ctx.textBaseline = "middle";
    ctx.fillText(fill(mark.text, values), x, y);
  },
};

function bitmap(ctx, mark, X, Y, rows, columns, upwards, colour) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  const pen = small.getContext("2d"), image = pen.createImageData(columns, rows), rgba = [0, 0, 0, 0];
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    colour((upwards ? rows - 1 - row : row) * columns + column, rgba);
    image.data.set(rgba, 4 * (row * columns + column));
  }
  pen.putImageData(image, 0, 0);
  const [x0, x1, y0, y1] = mark.extent;
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(small, X(x0), Y(y1), X(x1) - X(x0), Y(y0) - Y(y1));
}

// The same templates as tightbound.explore.marks.fill: {name}, {name:d}, {name:.3f}, {name:+.3f}.
// Of alternatives, parted by "||", it is the first in which no number is missing, else the last.
function fill(template, values) {
  const all = template.split(" || ").map((part) => filled(part, values));
  return all.find((words) => !words.includes("n/a")) ?? all[all.length - 1];
}
function filled(template, values) {
  return template.replace(/\{(\w+)(?::([^}]*))?\}/g, (_, name, form) => {
    const value = values[name];
    if (typeof value === "string") return value;
    const number = Number(typeof value === "object" ? value[0] : value);
    if (!Number.isFinite(number)) return "n/a";
    form ||= Number.isInteger(number) ? "d" : "";
    const text = form === "d" ? String(Math.sign(number) * Math.round(Math.abs(number)))
      : form ? (number + 0).toFixed(Number(form.match(/\d+/)[0])) : sixDigits(number);
    return ((form.startsWith("+") && !text.startsWith("-") ? "+" : "") + text).replaceAll("-", "−");
  });
}
function sixDigits(number) { // as Python's .6g
  const [digits, power] = number.toExponential(5).split("e");
  if (power >= -4 && power < 6) return String(Number(number.toPrecision(6)));
  return `${Number(digits)}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}

// ---- without a kernel ----------------------------------------------------------------------------------------------

class StaticModel {
  constructor(spec, buffer) {
    this.state = { spec, params: Object.fromEntries(Object.entries(spec.controls).map(([k, c]) => [k, c.value])) };
    const makers = { network, formula, lattice };
    this.functions = spec.functions.map((f) => makers[f.type](f, buffer, spec.controls));
    this.listeners = {};
    this.state.frame = this.answer();
  }
  get(name) { return this.state[name]; }
  on(event, callback) { (this.listeners[event] ??= []).push(callback); }
  send({ params }) {
    this.state.params = params;
    this.state.frame = this.answer();
    for (const callback of this.listeners["change:frame"] ?? []) callback();
  }
  answer() {
    const arrays = {}; // of the functions so far: networks and formulas may take them
    for (const answer of this.functions) Object.assign(arrays, answer(this.state.params, arrays));
    return { at: this.state.params, arrays };
  }
}

// A packed array: row(i) reads one row, either plain or as 8-bit or 16-bit steps between the row's ends, or between the
// logarithms of its ends.
function unpack(packed, buffer) {
  const { rows, columns } = packed;
  if ("f8" in packed) {
    const all = new Float64Array(buffer, packed.f8, rows * columns);
    return (i, into, weight) => { for (let j = 0; j < columns; j++) into[j] += weight * all[i * columns + j]; };
  }
  const ends = new Float64Array(buffer, packed.range, 3 * rows);
  const [steps, most] = "u1" in packed ? [new Uint8Array(buffer, packed.u1, rows * columns), 255]
    : [new Uint16Array(buffer, packed.u2, rows * columns), 65534];
  return (i, into, weight) => {
    const low = ends[i], scale = ends[rows + i] / most, logarithmic = ends[2 * rows + i];
    for (let j = 0; j < columns; j++) {
      const step = steps[i * columns + j];
      const value = step === 65535 ? NaN : low + scale * step;
      into[j] += weight * (logarithmic ? Math.exp(value) : value);
    }
  };
}

// Multilinear interpolation between the stops around the controls' values; exact at every stop.
function lattice({ inputs, outputs }, buffer, controls) {
  const axes = inputs.flatMap((name) => controls[name].type === "point"
    ? [[name, controls[name].x, 0], [name, controls[name].y, 1]] : [[name, controls[name].stops, null]]);
  const tables = Object.entries(outputs).map(([name, packed]) => [name, packed.shape, packed.columns, unpack(packed, buffer)]);
  return (params) => {
    let corners = [[0, 1]]; // [row, weight]
    for (const [name, stops, part] of axes) {
      const value = part === null ? params[name] : params[name][part];
      let i = stops.indexOf(value), t = 0;
      if (i < 0) {
        i = Math.max(stops.findLastIndex((stop) => stop <= value), 0);
        t = i + 1 < stops.length ? (value - stops[i]) / (stops[i + 1] - stops[i]) : 0;
      }
      corners = corners.flatMap(([row, weight]) => [[row * stops.length + i, weight * (1 - t)],
        [row * stops.length + i + 1, weight * t]].filter(([, w]) => w > 0));
    }
    return Object.fromEntries(tables.map(([name, shape, columns, add]) => {
      const data = new Float64Array(columns);
      for (const [row, weight] of corners) add(row, data, weight);
      return [name, { shape, data }];
    }));
  };
}

const ACTIVATIONS = { relu: (v) => Math.max(v, 0), tanh: Math.tanh, sigmoid: (v) => 1 / (1 + Math.exp(-v)),
  softplus: (v) => (v > 20 ? v : Math.log1p(Math.exp(v))), elu: (v) => (v > 0 ? v : Math.expm1(v)),
  silu: (v) => v / (1 + Math.exp(-v)), identity: (v) => v };

function network({ inputs, output, shape, layers }, buffer) {
  const read = (packed) => {
    const table = unpack(packed, buffer);
    return Array.from({ length: packed.rows }, (_, i) => { const row = new Float64Array(packed.columns); table(i, row, 1); return row; });
  };
  const steps = layers.map((layer) => layer.activation ? { activate: ACTIVATIONS[layer.activation] }
    : { weight: read(layer.weight), bias: read(layer.bias) });
  return (params, arrays) => {
    let v = Float64Array.from(inputs.flatMap((name) => numbers(name, params, arrays)));
    for (const { activate, weight, bias } of steps)
      v = activate ? v.map(activate) : Float64Array.from(weight, (row, i) => row.reduce((sum, w, j) => sum + w * v[j], bias[i][0]));
    return { [output]: { shape, data: v } };
  };
}

const numbers = (name, params, arrays) => (name in arrays ? [...arrays[name].data] : params[name]);

const half = (code, i) => code.slice((i * code.length) / 2, ((i + 1) * code.length) / 2);
const total = (values) => values.reduce((sum, v) => sum + v, 0);
const FORMULAS = { // as in tightbound.explore.lattice
  paper: (v) => v.map((one) => 1 - one),
  binary: (v) => v.map((one) => Number(one >= 0.5)),
  sigmoid: (v) => v.map(ACTIVATIONS.sigmoid),
  mean: (code) => half(code, 0),
  covariance: (code) => half(code, 1).flatMap((s, i, all) => all.map((_, j) => (i === j ? Math.exp(2 * s) : 0))),
  rate: (code) => total(half(code, 1).map((s, i) => 0.5 * (code[i] ** 2 + Math.exp(2 * s) - 1 - 2 * s))),
  bernoulli: (x, logits) => total(x.map((v, i) => v * logits[i] - Math.max(logits[i], 0) - Math.log1p(Math.exp(-Math.abs(logits[i]))))),
  difference: (a, b) => a.map((v, i) => v - b[i]),
};

function formula({ formula: name, inputs, output, shape }) {
  return (params, arrays) => ({ [output]: { shape,
    data: Float64Array.from([FORMULAS[name](...inputs.map((input) => [numbers(input, params, arrays)].flat()))].flat()) } });
}

async function boot(id) {
  const el = document.querySelector(`#${id}:not([data-live])`);
  const spec = JSON.parse(document.getElementById(`${id}-spec`).textContent);
  el.dataset.live = ""; // so that the same explorer can stand twice on a page
  const bytes = Uint8Array.from(atob(spec.data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  render({ model: new StaticModel(spec, await new Response(stream).arrayBuffer()), el });
}
