/* The probe: one held-out response measured again while a student trains. Tokens across, training steps down, one cell
   for each; its fill is 1 - TVD as in the strip, and a rejected cell is hatched. The server sends thresholds, so the k
   slider re-gates every row here by comparison. Below it stands the strip of the step that is looked at.

   Cells are drawn on a canvas; what a cell says is in the readout below, which follows pointer and arrow keys. */
const LEFT = 38; // pixels for the steps' numbers
const RIGHT = 44; // for each row's acceptance rate
const TOP = 52; // for the tokens, aslant
const LEAST_ROW = 4;
const LEAST_COLUMN = 14; // room for a name aslant above it
const MOST_ROW = 26;
const REST = 400; // milliseconds without a move until the strip's spoken labels follow
const SHADES = [0.05, 0.92]; // opacity of the palest and the strongest fill, as in Inspect's lanes
const FILLS = { acceptance: "1 − TVD", divergence: "divergence" };
let serial = 0;

SpecKD.createProbe = function (root, { onMoment = () => {}, onRacer = () => {}, lessons = {} } = {}) {
  const { el, number, percent, ordinal } = SpecKD;
  const id = `sk-probe-${++serial}`;
  let run = null;
  let racer = 0;
  let moment = 0;
  let until = Infinity; // rows beyond are not there yet
  let fill = "acceptance";
  let knobs = { kind: "topk", k: 5 };
  let cell = { row: -1, t: -1 }; // under the pointer or the arrow keys
  let frame = 0;
  let pattern = null;
  let shape = null; // where things are on the canvas
  let stripOf = ""; // what the strip shows
  let small = null; // its trace
  let lastShown = null; // the row that was brought into view
  let resting = 0;

  const heading = el(
    "h2",
    { class: "sk-probe-title" },
    el("span", { text: "The probe" }),
    lessons.probe ? SpecKD.lesson(...lessons.probe) : null,
  );
  const prompt = el("bdi", { class: "sk-probe-prompt sk-muted" });
  const racers = el("div", { class: "sk-segments sk-segments-small", role: "radiogroup", "aria-label": "Racer" });
  const fills = el("select", { class: "sk-select", "aria-label": "What the fill shows" });
  for (const [name, text] of Object.entries(FILLS)) {
    fills.append(el("option", { value: name, text: `fill: ${text}` }));
  }
  const k = el("input", {
    type: "range",
    class: "sk-slider",
    id: `${id}-k`,
    min: 1,
    max: SpecKD.K_MAX,
    step: 1,
    "aria-label": "k of the probe, from 1 to 50",
  });
  const rule = el("span", { class: "sk-muted" });
  const kShown = el("output", { for: `${id}-k`, class: "sk-probe-k-value" });
  const kBox = el(
    "label",
    { class: "sk-probe-k", for: `${id}-k` },
    rule,
    el("span", { class: "sk-symbol", text: "k" }),
    k,
    kShown,
  );
  const head = el(
    "div",
    { class: "sk-probe-head" },
    el("div", { class: "sk-probe-names" }, heading, prompt),
    racers,
    fills,
    kBox,
  );

  const canvas = el("canvas", {
    class: "sk-probe-canvas",
    tabindex: "0",
    role: "application",
    "aria-roledescription": "heatmap",
    "aria-describedby": `${id}-how`,
  });
  const rowMark = el("div", { class: "sk-probe-row", "aria-hidden": "true" });
  const cellMark = el("div", { class: "sk-probe-cell", "aria-hidden": "true" });
  const sheet = el("div", { class: "sk-probe-sheet" }, canvas, rowMark, cellMark);
  const box = el("div", { class: "sk-probe-box" }, sheet);
  const empty = el("p", { class: "sk-probe-empty sk-small sk-muted" });
  const readout = el("p", { class: "sk-probe-readout sk-small" });
  const spoken = el("span", { class: "sk-hidden", "aria-live": "polite" });
  const how = el("span", {
    class: "sk-hidden",
    id: `${id}-how`,
    text: "Arrow keys walk over steps and tokens, Enter goes to a step.",
  });
  const moments = el("div", { class: "sk-probe-moment" });
  const stripBox = el("div", { class: "sk-probe-strip" });
  const ramp = el("span", { class: "sk-probe-ramp" });
  const legend = el(
    "div",
    { class: "sk-probe-legend sk-muted" },
    el("span", { class: "sk-token sk-accepted", text: "accepted" }),
    el("span", { class: "sk-token sk-rejected", text: "rejected" }),
    ramp,
  );
  root.append(
    el(
      "section",
      { class: "sk-probe", "aria-label": "Probe" },
      head,
      box,
      empty,
      readout,
      spoken,
      how,
      el(
        "div",
        { class: "sk-probe-below" },
        el("div", { class: "sk-probe-line sk-small" }, moments, legend),
        stripBox,
      ),
    ),
  );
  const strip = SpecKD.createStrip(stripBox, {
    onHover: (t) => look(shownRow(), t),
    onPin: (t) => {
      look(shownRow(), t);
      speak();
    },
    label: "Probe at this step",
  });

  const current = () => (run && run.racers[racer]) || null;
  const rows = () => {
    const one = current();
    return one ? one.probes.filter((row) => row.step <= until) : [];
  };
  const tokens = () => (run && run.start && run.start.probe ? run.start.probe.tokens : []);
  const column = () => (knobs.kind === "speck" ? "speck_threshold" : "topk_threshold");
  const accepts = (row, t) => row[column()][t] <= knobs.k;
  const rate = (row) => {
    let kept = 0;
    for (let t = 0; t < tokens().length; t++) kept += accepts(row, t) ? 1 : 0;
    return tokens().length ? kept / tokens().length : NaN;
  };
  const shownRow = () => {
    let found = -1;
    rows().forEach((row, i) => {
      if (row.step <= moment) found = i;
    });
    return found;
  };

  /* --- the gate that marks the cells: the racer's own, and k as the visitor likes ------------------------------- */

  function ownKnobs() {
    const one = current();
    if (!one) return;
    const gates = [one, ...run.racers].map((other) => other.gate).filter((gate) =>
      gate.kind === "topk" || gate.kind === "speck"
    );
    const gate = gates[0] || { kind: "topk", k: 5 }; // all open: what a gate would say of it
    knobs = { kind: gate.kind, k: gate.k || 5 };
  }
  function showKnobs() {
    const one = current();
    const own = one && (one.gate.kind === "topk" || one.gate.kind === "speck");
    rule.textContent = SpecKD.GATES[knobs.kind].label;
    kBox.title = one && !own
      ? `${one.name} has no k of its own: the marks say what ${SpecKD.GATES[knobs.kind].label} would.`
      : "";
    k.value = String(knobs.k);
    k.style.setProperty("--at", `${((knobs.k - 1) / (SpecKD.K_MAX - 1)) * 100}%`);
    k.setAttribute("aria-valuetext", `${rule.textContent}, k = ${knobs.k}`);
    kShown.textContent = String(knobs.k);
  }
  k.addEventListener("input", () => {
    knobs = { ...knobs, k: Number(k.value) };
    showKnobs();
    draw();
    showStrip();
    tell();
  });
  fills.addEventListener("change", () => {
    fill = fills.value;
    draw();
  });

  function showRacers() {
    racers.hidden = !run || run.racers.length < 2;
    racers.replaceChildren();
    for (const one of run ? run.racers : []) {
      const input = el("input", {
        type: "radio",
        name: `${id}-racer`,
        id: `${id}-racer-${one.index}`,
        value: one.index,
      });
      input.checked = one.index === racer;
      input.addEventListener("change", () => {
        choose(one.index);
        onRacer(one.index);
      });
      racers.append(input, el("label", { for: input.id, title: SpecKD.visible(one.name), text: one.letter }));
    }
  }
  function choose(index) {
    if (racer === index) return;
    racer = index;
    for (const input of racers.querySelectorAll("input")) input.checked = Number(input.value) === racer;
    ownKnobs();
    showKnobs();
    cell = { row: -1, t: -1 };
    paint();
  }

  /* --- drawing ------------------------------------------------------------------------------------------------------ */

  /* A row is as high as the steps it stands for: a new one never moves those above it. */
  function measure() {
    const n = tokens().length;
    const all = run.racers.flatMap((one) => one.probes.map((row) => row.step)).sort((a, b) => a - b).filter((
      step,
      i,
      list,
    ) => step !== list[i - 1]);
    let stride = Math.max(1, Math.ceil(run.steps / 24));
    if (all.length > 1) stride = Math.min(...all.slice(1).map((step, i) => step - all[i]));
    const count = Math.max(1, Math.ceil(Math.max(run.steps, all.length ? all[all.length - 1] : 0) / stride) + 1);
    const width = Math.max(box.clientWidth, LEFT + RIGHT + n * LEAST_COLUMN);
    const step = (width - LEFT - RIGHT) / Math.max(1, n);
    const top = step >= LEAST_COLUMN ? TOP : 8;
    const room = Math.max(80, box.clientHeight - top - 4);
    const high = Math.min(MOST_ROW, Math.max(LEAST_ROW, room / count));
    const y = (row) => top + Math.round((row.step / stride) * high);
    const tall = (row) => y({ step: row.step + stride }) - y(row);
    shape = {
      n,
      stride,
      count,
      width,
      column: step,
      top,
      high,
      height: Math.floor(top + count * high + 4),
      y,
      tall,
      x: (t) => LEFT + t * step,
    };
    return shape;
  }

  function hatching(pen, colour) {
    if (pattern && pattern.colour === colour) return pattern.made;
    const ratio = devicePixelRatio || 1;
    const size = 5;
    const tile = el("canvas", { width: Math.round(size * ratio), height: Math.round(size * ratio) });
    const line = tile.getContext("2d");
    line.scale(tile.width / size, tile.height / size);
    line.strokeStyle = colour;
    line.lineWidth = 1;
    line.beginPath();
    for (const shift of [-size, 0, size]) {
      line.moveTo(shift - 1, size + 1);
      line.lineTo(shift + size + 1, -1);
    }
    line.stroke();
    const made = pen.createPattern(tile, "repeat");
    made.setTransform(new DOMMatrix().scale(size / tile.width, size / tile.height));
    pattern = { colour, made };
    return made;
  }

  function draw() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(drawNow);
  }
  function drawNow() {
    const nothing = !run || !run.start || !tokens().length;
    sheet.hidden = nothing;
    empty.hidden = !nothing;
    empty.textContent = run && run.start && !run.start.probe
      ? "This run measures no probe."
      : "The probe appears when a run starts.";
    if (nothing || !box.clientWidth) return;
    const at = measure();
    const ratio = devicePixelRatio || 1;
    const [wide, tall] = [Math.round(at.width * ratio), Math.round(at.height * ratio)];
    if (canvas.width !== wide || canvas.height !== tall) {
      [canvas.width, canvas.height] = [wide, tall];
      [canvas.style.width, canvas.style.height] = [at.width + "px", at.height + "px"];
      [sheet.style.width, sheet.style.height] = [at.width + "px", at.height + "px"];
    }
    const style = getComputedStyle(box);
    const colour = (name) => style.getPropertyValue(name).trim();
    const blue = colour("--sk-teacher-rgb");
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, at.width, at.height);
    const font = (size, weight = 400) => {
      pen.font = `${weight} ${size}px ${style.fontFamily}`;
    };
    const all = rows();
    const largest = Math.max(1e-9, ...all.flatMap((row) => row.divergence.filter((d) => Number.isFinite(d))));
    const strength = (row, t) => (fill === "acceptance" ? 1 - row.tvd[t] : Math.min(1, row.divergence[t] / largest));
    const gap = at.high >= 9 ? 1 : 0;

    font(11);
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    pen.fillStyle = colour("--sk-muted");
    if (at.column >= LEAST_COLUMN) {
      tokens().forEach((text, t) => {
        pen.save();
        pen.translate(at.x(t) + at.column / 2 + 2, at.top - 6);
        pen.rotate(-Math.PI / 3.4);
        pen.fillStyle = colour(t === cell.t ? "--sk-ink" : "--sk-muted");
        pen.fillText(cut(pen, SpecKD.shown(text), TOP - 2), 0, 0);
        pen.restore();
      });
    }
    pen.fillStyle = colour("--sk-muted");
    pen.textAlign = "left";
    pen.fillText("step", 0, at.top - 5);
    pen.textAlign = "right";
    pen.fillText("TAR", at.width - 4, at.top - 5);

    const every = Math.max(1, Math.ceil(12 / at.high));
    pen.textBaseline = "middle";
    const past = shownRow();
    const rejected = [new Path2D(), new Path2D()]; // up to the moment, and after it
    all.forEach((row, i) => {
      const y = at.y(row);
      const tall = at.tall(row) - gap;
      pen.globalAlpha = i > past ? 0.3 : 1;
      for (let t = 0; t < at.n; t++) {
        const [left, right] = [Math.round(at.x(t)), Math.round(at.x(t + 1))];
        const amount = strength(row, t);
        pen.fillStyle = `rgba(${blue}, ${
          SHADES[0] + (SHADES[1] - SHADES[0]) * Math.max(0, Math.min(1, Number.isNaN(amount) ? 1 : amount))
        })`;
        pen.fillRect(left, y, right - left - gap, tall);
      }
      for (let t = 0; t < at.n; t++) {
        if (accepts(row, t)) continue;
        const [left, right] = [Math.round(at.x(t)), Math.round(at.x(t + 1))];
        rejected[i > past ? 1 : 0].rect(left, y, right - left - gap, tall);
      }
      if (i % every === 0 || i === past) {
        const clash = i !== past && Math.abs(i - past) < every && past >= 0; // the looked-at row's numbers win
        font(11, i === past ? 700 : 400);
        pen.fillStyle = colour(i === past ? "--sk-ink" : "--sk-muted");
        if (!clash) {
          pen.textAlign = "right";
          pen.fillText(String(row.step), LEFT - 7, y + at.high / 2);
          pen.fillText(percent(rate(row)), at.width - 4, y + at.high / 2);
        }
      }
      pen.globalAlpha = 1;
    });
    rejected.forEach((cells, later) => { // all at once: a fill for each cell would take many times as long
      pen.globalAlpha = later ? 0.3 : 1;
      for (const paint of [colour("--sk-probe-veil"), hatching(pen, colour("--sk-probe-hatch"))]) {
        pen.fillStyle = paint;
        pen.fill(cells);
      }
    });
    pen.globalAlpha = 1;
    ramp.replaceChildren(
      fill === "acceptance" ? "one draw passes, 1 − TVD 0 " : "divergence 0 ",
      el("span", { class: "sk-ramp" }),
      fill === "acceptance" ? " 1" : ` ${number(largest, 2)} nats`,
    );
    label(all);
    place();
    canvas.dataset.rows = String(all.length);
    canvas.dataset.painted = String(Number(canvas.dataset.painted || 0) + 1);
  }
  function cut(pen, text, room) {
    if (pen.measureText(text).width <= room) return text;
    const characters = Array.from(text.slice(0, 40));
    while (characters.length > 1 && pen.measureText(characters.join("") + "…").width > room) characters.pop();
    return characters.join("") + "…";
  }
  function label(all) {
    const one = current();
    const last = all[all.length - 1];
    const text = all.length
      ? `Heatmap of ${tokens().length} tokens across and ${all.length} measurements down, from step ${
        all[0].step
      } to ${last.step}, of racer ${one.letter}. ${SpecKD.GATES[knobs.kind].label}, k = ${knobs.k}, accepts ${
        percent(rate(all[0]))
      } at first and ${percent(rate(last))} at last.`
      : "Heatmap without a measurement yet.";
    if (canvas.getAttribute("aria-label") !== text) canvas.setAttribute("aria-label", text);
  }

  function place() {
    const all = rows();
    const past = shownRow();
    const row = all[past];
    rowMark.hidden = !row;
    if (row) {
      rowMark.style.transform = `translate(${LEFT - 2}px, ${shape.y(row) - 2}px)`;
      rowMark.style.width = shape.n * shape.column + 3 + "px";
      rowMark.style.height = shape.tall(row) + 3 + "px";
      if (shape.height > box.clientHeight + 4 && lastShown !== row) { // a long run: keep the moment in view
        const y = shape.y(row);
        if (y < box.scrollTop + shape.top || y + 2 * shape.high > box.scrollTop + box.clientHeight) {
          box.scrollTop = y - box.clientHeight / 2;
        }
      }
      lastShown = row;
    }
    const over = all[cell.row];
    cellMark.hidden = !over || cell.t < 0;
    if (!cellMark.hidden) {
      cellMark.style.transform = `translate(${shape.x(cell.t) - 1}px, ${shape.y(over) - 1}px)`;
      cellMark.style.width = shape.column + 1 + "px";
      cellMark.style.height = shape.tall(over) + 1 + "px";
    }
  }

  /* --- one cell: in words ------------------------------------------------------------------------------------------- */

  function words(row, t) {
    const rank = row.topk_threshold[t];
    const threshold = row[column()][t];
    const told = knobs.kind === "topk"
      ? `the teacher’s ${ordinal(rank)}`
      : threshold > SpecKD.K_MAX
      ? `none of ${SpecKD.K_MAX} draws passes`
      : `its ${ordinal(threshold)} draw passes`;
    return { rank, told, verdict: accepts(row, t) ? "accepted" : "rejected" };
  }
  function tell() {
    const row = rows()[cell.row];
    if (!row || cell.t < 0) {
      readout.replaceChildren(
        el("span", {
          class: "sk-muted",
          text: "Point at a cell, or walk with the arrow keys; click a row to read its strip.",
        }),
      );
      return;
    }
    const { told, verdict } = words(row, cell.t);
    readout.replaceChildren(
      el("span", { class: "sk-muted", text: `step ${row.step}, token ${cell.t + 1} ` }),
      el("bdi", { class: "sk-quote", text: SpecKD.shown(tokens()[cell.t]) }),
      el("span", { class: "sk-muted", text: " student proposes " }),
      el("bdi", { class: "sk-quote", text: SpecKD.shown(row.proposal[cell.t] ?? "") }),
      el("span", { text: `, ${told}: ` }),
      el("b", { text: `${verdict === "accepted" ? "✓" : "✕"} ${verdict}` }),
      el("span", {
        class: "sk-muted",
        text: ` at k = ${knobs.k} · 1 − TVD ${number(1 - row.tvd[cell.t], 2)} · divergence ${
          number(row.divergence[cell.t], 2)
        } nats`,
      }),
    );
  }
  function speak() {
    const row = rows()[cell.row];
    if (!row || cell.t < 0) return;
    const { told, verdict } = words(row, cell.t);
    spoken.textContent = `Step ${row.step}, token ${cell.t + 1}, ${SpecKD.spoken(tokens()[cell.t])}. Proposal ${
      SpecKD.spoken(row.proposal[cell.t] ?? "")
    }, ${told}: ${verdict} at k ${knobs.k}.`;
  }
  function look(row, t) {
    if (row === cell.row && t === cell.t) return;
    const column = cell.t;
    cell = { row, t };
    if (!shape) return;
    place();
    tell();
    strip.setCursor(row === shownRow() ? t : -1);
    if (column !== t) draw(); // the token's name above its column
  }

  function cellAt(event) {
    if (!shape) return { row: -1, t: -1 };
    const frameBox = canvas.getBoundingClientRect();
    const t = Math.floor((event.clientX - frameBox.left - LEFT) / shape.column);
    const y = event.clientY - frameBox.top;
    let row = -1;
    rows().forEach((one, i) => {
      if (y >= shape.y(one) && y < shape.y(one) + shape.tall(one)) row = i;
    });
    return { row: row, t: t >= 0 && t < shape.n && row >= 0 ? t : -1 };
  }
  canvas.addEventListener("pointermove", (event) => {
    const { row, t } = cellAt(event);
    look(row, t);
  });
  canvas.addEventListener("pointerleave", () => look(-1, -1));
  canvas.addEventListener("click", (event) => {
    const { row, t } = cellAt(event);
    if (row < 0) return;
    look(row, t);
    onMoment(rows()[row].step);
    strip.setCursor(t);
  });
  canvas.addEventListener("focus", () => {
    if (cell.row < 0 && canvas.matches(":focus-visible")) {
      look(shownRow(), 0);
      speak();
    }
  });
  canvas.addEventListener("blur", () => look(-1, -1));
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !shape) return;
    const last = rows().length - 1;
    if (last < 0) return;
    const row = cell.row < 0 ? shownRow() : cell.row;
    const t = Math.max(0, cell.t);
    const goal = {
      ArrowRight: [row, t + 1],
      ArrowLeft: [row, t - 1],
      ArrowDown: [row + 1, t],
      ArrowUp: [row - 1, t],
      Home: [row, 0],
      End: [row, shape.n - 1],
      PageDown: [last, t],
      PageUp: [0, t],
    }[event.key];
    if (goal) {
      event.preventDefault();
      look(Math.max(0, Math.min(last, goal[0])), Math.max(0, Math.min(shape.n - 1, goal[1])));
      reveal();
      speak();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onMoment(rows()[row].step);
      speak();
    }
  });
  function reveal() {
    const row = rows()[cell.row];
    const [x, y] = [shape.x(cell.t), shape.y(row)];
    if (x < box.scrollLeft + LEFT || x + shape.column > box.scrollLeft + box.clientWidth) {
      box.scrollLeft = x - box.clientWidth / 2;
    }
    if (y < box.scrollTop || y + shape.high > box.scrollTop + box.clientHeight) {
      box.scrollTop = y - box.clientHeight / 2;
    }
  }

  /* --- the strip of that moment ------------------------------------------------------------------------------------- */

  function showStrip() {
    const row = rows()[shownRow()];
    if (!row) {
      moments.replaceChildren();
      stripBox.hidden = true;
      stripOf = "";
      clearTimeout(resting);
      return;
    }
    stripBox.hidden = false;
    const one = current();
    const key = `${run.key}/${racer}/${row.step}`;
    if (key !== stripOf && stripOf.startsWith(`${run.key}/`) && small) { // the same words: only their fills change
      stripOf = key;
      small.divergence.tvd = row.tvd;
      tokens().forEach((_, t) =>
        strip.token(t).style.setProperty("--a", Math.max(0, Math.min(1, 1 - row.tvd[t])).toFixed(3))
      );
      clearTimeout(resting);
      resting = setTimeout(() => {
        stripOf = "";
        showStrip();
        strip.setCursor(cell.row === shownRow() ? cell.t : -1);
      }, REST);
    } else if (key !== stripOf) {
      clearTimeout(resting);
      const focused = stripBox.contains(document.activeElement) ? Number(document.activeElement.dataset.t) : -1;
      const scrolled = strip.element.scrollTop;
      stripOf = key;
      small = SpecKD.smallTrace({ tokens: tokens(), ...row });
      strip.setTrace(small);
      strip.element.scrollTop = scrolled;
      if (focused >= 0 && strip.token(focused)) strip.token(focused).focus();
    }
    strip.element.dataset.step = String(row.step);
    strip.paint({ accepted: Uint8Array.from(tokens(), (_, t) => (accepts(row, t) ? 1 : 0)) });
    moments.replaceChildren(
      SpecKD.racerMark(one.index),
      el("b", { text: `${one.letter} at step ${row.step}` }),
      el("span", { class: "sk-muted", text: "TAR " }),
      el("b", { text: percent(rate(row)) }),
    );
  }

  function paint() {
    tell();
    showStrip();
    draw();
  }

  const observer = new ResizeObserver(() => draw());
  observer.observe(box);
  const theme = new MutationObserver(() => {
    pattern = null;
    draw();
  });
  theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  showKnobs();
  tell();

  return {
    /* The run has more events, or is another one. */
    show(next, { step = moment, upTo = Infinity, racer: wanted = null } = {}) {
      const fresh = next !== run || next.shownKey !== next.key;
      run = next;
      if (fresh && run.start) {
        run.shownKey = run.key;
        racer = Math.min(racer, Math.max(0, run.racers.length - 1));
        cell = { row: -1, t: -1 };
        ownKnobs();
        showRacers();
        showKnobs();
        prompt.textContent = run.start.probe ? SpecKD.visible(run.start.probe.prompt) : "";
        prompt.title = prompt.textContent;
      }
      moment = step;
      until = upTo;
      if (wanted !== null && wanted !== racer && run.racers[wanted]) choose(wanted);
      paint();
    },
    setMoment(step, upTo = Infinity) {
      if (step === moment && upTo === until) return;
      moment = step;
      until = upTo;
      if (!run) return;
      showStrip();
      draw();
      tell();
    },
    state: () => ({
      racer,
      knobs,
      fill,
      cell,
      rows: rows(),
      shown: shownRow(),
      accepted: rows().map((row) => tokens().map((_, t) => accepts(row, t))),
    }),
    canvas,
    cellCentre: (row, t) => ({ x: shape.x(t) + shape.column / 2, y: shape.y(rows()[row]) + shape.high / 2 }),
    destroy: () => {
      observer.disconnect();
      theme.disconnect();
      cancelAnimationFrame(frame);
      clearTimeout(resting);
    },
  };
};
