/* What a reader takes in hand: two lists laid over one another, the gradient of one row, the speed formula.
   The numbers to begin with are those of the trace on screen (app/lessons/hands.py). */

const { el, svg, tr } = SpecKD;
const share = (x) => SpecKD.format(x, "share");
const STEP = 0.01; // of a bar moved with an arrow key
const REMEMBERED = 400; // throws that the running average's line shows
const WHO = { p: "teacher", q: "student" };

/* A slider with its name and value. */
function slider(name, { min, max, step, value, write }, onInput) {
  const input = el("input", { type: "range", class: "sk-slider", min, max, step, value, "aria-label": name });
  const shown = el("output", { class: "sk-hands-value" });
  const tell = () => {
    shown.textContent = write(Number(input.value));
    input.style.setProperty("--at", `${(100 * (Number(input.value) - min)) / (max - min)}%`);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => {
    tell();
    onInput(Number(input.value));
  });
  tell();
  return el("label", { class: "sk-hands-slider" }, el("span", { text: name }), input, shown);
}

/* Two lists as bars over one another, a row a token. Bars of the lists in `free` ("pq", "q") can be dragged, and moved
   with arrow keys; the others of their list make room, so that it still makes one. */
class Bars {
  constructor({ labels, p, q, free, arrows = false }, onChange) {
    this.lists = { p: [...p], q: [...q] };
    this.scale = Math.min(1, 1.35 * Math.max(...p, ...q)); // what the full width stands for
    this.onChange = onChange;
    this.element = el("div", { class: "sk-hands-bars" + (arrows ? " sk-hands-arrows" : "") });
    this.rows = labels.map((label, i) => this.row(label, i, free));
    this.draw();
  }
  row(label, i, free) {
    const track = el("div", { class: "sk-hands-track" });
    const bars = { p: el("span", { class: "sk-hands-p" }), q: el("span", { class: "sk-hands-q" }) };
    const both = el("span", { class: "sk-hands-both" });
    const handles = {};
    track.append(bars.p, bars.q, both);
    for (const list of free) {
      const name = tr(list === "p" ? "teacher’s probability of {word}" : "student’s probability of {word}", {
        word: label,
      });
      const about = { role: "slider", tabindex: "0", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100 };
      handles[list] = el("span", { class: `sk-hands-handle sk-hands-of-${WHO[list]}`, ...about });
      this.listen(handles[list], track, list, i);
      track.append(handles[list]);
    }
    const arrow = el("span", { class: "sk-hands-arrow" });
    const number = el("span", { class: "sk-hands-number" });
    this.element.append(el("bdi", { class: "sk-hands-word", text: label }), track, arrow, number);
    return { bars, both, handles, arrow, number };
  }
  listen(handle, track, list, i) {
    handle.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!way) return;
      event.preventDefault();
      event.stopPropagation();
      this.set(list, i, this.lists[list][i] + way * STEP);
    });
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.setPointerCapture(event.pointerId);
      const move = (moved) => {
        const { left, width } = track.getBoundingClientRect();
        this.set(list, i, this.scale * (moved.clientX - left) / width);
      };
      handle.addEventListener("pointermove", move);
      handle.addEventListener("pointerup", () => handle.removeEventListener("pointermove", move), { once: true });
    });
  }
  /* One bar to a value; the rest of its list shares what is left as it did before. */
  set(list, i, value) {
    const values = this.lists[list];
    const wanted = Math.max(0, Math.min(this.scale, 1, value));
    const others = 1 - values[i];
    values.forEach((one, j) => {
      if (j === i) values[j] = wanted;
      else values[j] = others > 1e-9 ? (one * (1 - wanted)) / others : (1 - wanted) / (values.length - 1);
    });
    this.draw();
    this.onChange();
  }
  overlap() {
    return this.lists.p.reduce((sum, p, i) => sum + Math.min(p, this.lists.q[i]), 0);
  }
  draw(weight = this.weight ?? 1) {
    this.weight = weight;
    const width = (x) => `${Math.min(100, (100 * x) / this.scale)}%`;
    this.rows.forEach(({ bars, both, handles, arrow, number }, i) => {
      const [p, q] = [this.lists.p[i], this.lists.q[i]];
      bars.p.style.width = width(p);
      bars.q.style.width = width(q);
      both.style.width = width(Math.min(p, q));
      for (const list of Object.keys(handles)) {
        handles[list].style.insetInlineStart = width(this.lists[list][i]);
        handles[list].setAttribute("aria-valuenow", Math.round(100 * this.lists[list][i]));
        handles[list].setAttribute("aria-valuetext", share(this.lists[list][i]));
      }
      const push = weight * (q - p);
      arrow.style.setProperty("--push", `${Math.min(50, 50 * Math.abs(push))}%`);
      arrow.dataset.way = push > 0 ? "down" : "up";
      number.textContent = this.element.classList.contains("sk-hands-arrows")
        ? SpecKD.format(push, "score", { signed: true })
        : `${share(p)} / ${share(q)}`;
    });
  }
}

/* The running average of the coins as a line, and the shared area that it comes to. */
function meanLine(throws, shared) {
  let sum = 0;
  const points = throws.slice(-REMEMBERED).map((one, i) => {
    sum += one ? 1 : 0;
    return `${(400 * (i + 1)) / Math.max(1, Math.min(throws.length, REMEMBERED))},${70 - (70 * sum) / (i + 1)}`;
  });
  const y = 70 - 70 * shared;
  return [
    svg("line", { class: "sk-hands-goal", x1: 0, x2: 400, y1: y, y2: y }),
    svg("polyline", { class: "sk-hands-mean", points: points.join(" ") }),
  ];
}
/* One draw from q with its coin: whether it passes, and that in words. */
function thrown({ p, q }, labels) {
  let u = Math.random();
  let y = q.findIndex((one) => (u -= one) < 0);
  if (y < 0) y = q.findLastIndex((one) => one > 0);
  const bar = Math.min(1, p[y] / q[y]);
  const coin = Math.random();
  const told = { word: labels[y], bar: SpecKD.figures(bar, 2), coin: SpecKD.figures(coin, 2) };
  const says = coin < bar ? "{word}: bar {bar}, coin {coin}, it passes." : "{word}: bar {bar}, coin {coin}, it fails.";
  return { passed: coin < bar, text: tr(says, told) };
}
function heated(list, heat) {
  const powers = list.map((one) => (one > 0 ? one ** (1 / heat) : 0));
  const all = powers.reduce((a, b) => a + b, 0);
  return powers.map((one) => one / all);
}

/* Overlap, draws and coins. */
function overlap(node) {
  const rest = node.rest;
  const labels = [
    ...node.tokens.map(SpecKD.shown),
    tr("others, shared"),
    tr("others, the teacher’s"),
    tr("others, the student’s"),
  ];
  const first = { p: [...node.p, rest.shared, rest.teacher, 0], q: [...node.q, rest.shared, 0, rest.student] };
  let base = first; // what temperature works on
  let throws = [];
  const told = el("p", { class: "sk-hands-told" });
  const coins = el("p", { class: "sk-hands-told", "aria-live": "polite" });
  const view = { viewBox: "0 0 400 70", preserveAspectRatio: "none", "aria-hidden": "true" };
  const line = svg("svg", { class: "sk-hands-line", ...view });
  const changed = () => {
    throws = [];
    tell();
  };
  const bars = new Bars({ labels, ...first, free: "pq" }, () => {
    base = { p: [...bars.lists.p], q: [...bars.lists.q] };
    changed();
  });
  function tell(last = null) {
    const shared = bars.overlap();
    told.textContent = tr("Shared area {shared}, total variation {tvd}: the two make one.", {
      shared: share(shared),
      tvd: share(1 - shared),
    });
    const passed = throws.filter(Boolean).length;
    coins.textContent = !throws.length ? tr("No coin has been thrown yet.") : (last ? last + " " : "") +
      tr("{passed} of {n} draws passed: {share}.", { passed, n: throws.length, share: share(passed / throws.length) });
    line.replaceChildren(...meanLine(throws, shared));
  }
  function throwOnce() {
    const { passed, text } = thrown(bars.lists, labels);
    throws.push(passed);
    return text;
  }
  const thrower = (n, text) => {
    const button = el("button", { type: "button", class: "sk-button", text });
    button.addEventListener("click", () => {
      let last = "";
      for (let i = 0; i < n; i++) last = throwOnce();
      tell(n === 1 ? last : null);
    });
    return button;
  };
  const heater = slider(
    tr("temperature, as if these bars were all there is"),
    { min: -2, max: 2, step: 0.1, value: 0, write: (x) => SpecKD.number(2 ** x, 2) },
    (x) => {
      for (const list of ["p", "q"]) bars.lists[list] = heated(base[list], 2 ** x);
      bars.draw();
      changed();
    },
  );
  const again = el("button", { type: "button", class: "sk-button sk-quiet", text: tr("As measured") });
  again.addEventListener("click", () => {
    base = first;
    bars.lists = { p: [...first.p], q: [...first.q] };
    const input = heater.querySelector("input");
    input.value = "0";
    input.dispatchEvent(new Event("input"));
  });
  tell();
  const buttons = el(
    "div",
    { class: "sk-hands-buttons" },
    thrower(1, tr("Throw the coins")),
    thrower(100, tr("Throw a hundred")),
    again,
  );
  return [bars.element, told, heater, buttons, coins, line];
}

/* The gradient of one row: each token's weight times q - p. */
function gradient(node) {
  const labels = node.tokens.map((token) => (token === null ? tr("all others") : SpecKD.shown(token)));
  const told = el("p", { class: "sk-hands-told" });
  let weight = node.weight;
  const tell = () => {
    bars.draw(weight);
    told.textContent = tr(
      "All pushes of these bars together: {sum}, the weight times half the sum of their differences, {tvd}.",
      {
        sum: SpecKD.figures(weight * (1 - bars.overlap())),
        tvd: SpecKD.figures(1 - bars.overlap()),
      },
    );
  };
  const bars = new Bars({ labels, p: node.p, q: node.q, free: "q", arrows: true }, () => tell());
  const write = (x) => SpecKD.number(x, 2);
  const weigh = slider(tr("weight of the row"), { min: 0, max: 1, step: 0.01, value: weight, write }, (x) => {
    weight = x;
    tell();
  });
  tell();
  return [bars.element, weigh, told];
}

/* The speed-up over the draft length, for a chance and a cost. */
function speed(node) {
  const state = { a: node.a, c: node.c, g: node.g };
  const LONGEST = 16;
  const block = (a, g) => (a >= 1 ? g + 1 : (1 - a ** (g + 1)) / (1 - a));
  const faster = (g) => block(state.a, g) / (state.c * g + 1);
  const told = el("p", { class: "sk-hands-told", "aria-live": "polite" });
  const chart = svg("svg", { class: "sk-hands-chart", viewBox: "0 0 400 170", role: "img" });
  function tell() {
    const lengths = Array.from({ length: LONGEST }, (_, i) => i + 1);
    const speeds = lengths.map(faster);
    const best = lengths[speeds.indexOf(Math.max(...speeds))];
    const top = Math.max(1.2, ...speeds) * 1.08;
    const x = (g) => 34 + ((g - 1) * 356) / (LONGEST - 1);
    const y = (s) => 140 - (130 * s) / top;
    told.textContent = tr("{block} tokens a round, speed-up {speed}. The best length here is {best}, with {top}.", {
      block: SpecKD.figures(block(state.a, state.g)),
      speed: SpecKD.format(faster(state.g), "times"),
      best,
      top: SpecKD.format(faster(best), "times"),
    });
    chart.setAttribute("aria-label", told.textContent);
    chart.replaceChildren(
      svg("line", { class: "sk-hands-goal", x1: x(1), x2: x(LONGEST), y1: y(1), y2: y(1) }),
      svg("text", { class: "sk-hands-tick", x: 30, y: y(1) + 4, "text-anchor": "end", text: "1×" }),
      svg("polyline", { class: "sk-hands-mean", points: lengths.map((g) => `${x(g)},${y(faster(g))}`).join(" ") }),
      svg("circle", { class: "sk-hands-dot", cx: x(state.g), cy: y(faster(state.g)), r: 5 }),
      ...[1, 4, 8, 12, 16].map((g) =>
        svg("text", { class: "sk-hands-tick", x: x(g), y: 156, "text-anchor": "middle", text: g })
      ),
      svg("text", {
        class: "sk-hands-tick",
        x: 212,
        y: 168,
        "text-anchor": "middle",
        text: tr("draft length g (tokens)"),
      }),
    );
  }
  const knob = (name, key, range) =>
    slider(name, { ...range, value: state[key] }, (value) => {
      state[key] = value;
      tell();
    });
  tell();
  return [
    knob(tr("chance a"), "a", { min: 0, max: 0.99, step: 0.01, write: (x) => SpecKD.number(x, 2) }),
    knob(tr("cost c"), "c", { min: 0, max: 1, step: 0.01, write: (x) => SpecKD.number(x, 2) }),
    knob(tr("length g"), "g", { min: 1, max: LONGEST, step: 1, write: (x) => String(x) }),
    told,
    chart,
  ];
}

SpecKD.createHands = function (node) {
  const make = { overlap, gradient, speed }[node.kind];
  const about = { role: "group", "aria-label": tr("To take in hand"), "data-hands": node.kind };
  return el("div", { class: "sk-hands", ...about }, ...(make ? make(node) : []));
};
