/* The selectors on one text, stacked as rows of marks: the gate, the selectors it competes with, and chance. At an equal
   budget each may keep as many tokens as the gate accepts. */
const OWN_FRACTION = {
  adakd: 0.5,
  student_entropy: 0.2,
  teacher_entropy_low: 0.5,
  teacher_entropy_high: 0.5,
  random: 0.5,
};
const ROW = 18;
let serial = 0;

SpecKD.createCompare = function (root, { onPin = () => {}, onHover = () => {} } = {}) {
  const { el, percent, number } = SpecKD;
  const id = `sk-compare-${++serial}`;
  let trace = null;
  let gated = null;
  let knobs = null;
  let pinned = -1;
  let hovered = -1;
  let equal = true;
  let stale = true;

  const choice = el(
    "fieldset",
    { class: "sk-choice" },
    el("legend", { class: "sk-hidden", text: "How many tokens each selector may keep" }),
  );
  for (
    const [value, text] of [["equal", "as many tokens as the gate accepts"], [
      "own",
      "each at its own usual fraction",
    ]]
  ) {
    choice.append(
      el(
        "label",
        {},
        el("input", {
          type: "radio",
          name: id,
          value,
          checked: value === "equal",
          onchange: () => {
            equal = value === "equal";
            draw();
          },
        }),
        " " + text,
      ),
    );
  }
  const budget = el("p", { class: "sk-muted sk-small" });
  const table = el("table", { class: "sk-rows" });
  const overlay = el("div", { class: "sk-rows-cursor", "aria-hidden": "true" });
  const pinMark = el("div", { class: "sk-rows-pin", "aria-hidden": "true" });
  const rowsBox = el("div", { class: "sk-rows-box" }, table, overlay, pinMark);
  const jaccard = el("table", { class: "sk-jaccard" });
  const chance = el("p", { class: "sk-muted sk-small" });
  const box = el(
    "section",
    { class: "sk-compare", "aria-label": "Compare selectors" },
    el(
      "div",
      { class: "sk-compare-left" },
      el("h2", { class: "sk-section", text: "Which tokens each selector keeps" }),
      choice,
      budget,
      rowsBox,
    ),
    el(
      "div",
      { class: "sk-compare-right" },
      el("h2", { class: "sk-section", text: "How far they agree" }),
      el(
        "div",
        { class: "sk-scroll", tabindex: "0", role: "region", "aria-label": "Agreement of the selectors" },
        jaccard,
      ),
      chance,
    ),
  );
  root.append(box);
  const observer = new ResizeObserver(() => draw());
  observer.observe(rowsBox);

  const marksOf = () => table.querySelector("canvas");
  const tokenAt = (event) => {
    const canvas = marksOf();
    if (!canvas || !trace) return -1;
    const frame = canvas.getBoundingClientRect();
    const x = event.clientX - frame.left;
    return x < 0 || x >= frame.width ? -1 : Math.floor((x / frame.width) * trace.tokens.length);
  };
  rowsBox.addEventListener("pointermove", (event) => onHover(tokenAt(event)));
  rowsBox.addEventListener("pointerleave", () => onHover(-1));
  rowsBox.addEventListener("click", (event) => {
    const t = tokenAt(event);
    if (t >= 0) onPin(t);
  });

  function selections() {
    const n = gated.n;
    const m = SpecKD.budget(gated.tar, n);
    const rows = [{
      name: SpecKD.GATES[knobs.gate].label + (knobs.gate === "none" ? "" : `, k = ${knobs.k}`),
      says: SpecKD.GATES[knobs.gate].says,
      kept: gated.accepted,
    }];
    const twin = { topk: "speck", speck: "topk" }[knobs.gate];
    if (twin) {
      rows.push({
        name: SpecKD.GATES[twin].label + `, k = ${knobs.k}`,
        says: SpecKD.GATES[twin].says + " (at its own rate)",
        kept: SpecKD.regate(trace, { ...knobs, gate: twin }).accepted,
      });
    }
    for (const [key, selector] of Object.entries(SpecKD.SELECTORS)) {
      const most = equal ? m : SpecKD.budget(OWN_FRACTION[key], n);
      rows.push({ name: selector.label, says: selector.says, kept: SpecKD.keep(trace.ranks[key], most) });
    }
    return { rows, m };
  }

  function draw() {
    if (!trace || !gated || gated.n !== trace.tokens.length || !box.clientWidth) {
      stale = true;
      return;
    }
    stale = false;
    const n = gated.n;
    const { rows, m } = selections();
    budget.textContent = equal
      ? `The gate accepts ${m} of ${n} tokens; every ranking below keeps its first ${m}.`
      : "AdaKD and teacher entropy 50%, student entropy 20%, random 50%.";
    const header = el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col", text: "selector" }),
        el("th", { scope: "col", text: `tokens 1 to ${n}` }),
        el("th", { scope: "col", class: "sk-num", text: "kept" }),
        el("th", { scope: "col", class: "sk-num", text: "of the loss" }),
      ),
    );
    const body = el("tbody", {});
    const paints = [];
    rows.forEach((row, i) => {
      const kept = row.kept.reduce((a, b) => a + b, 0);
      const canvas = el("canvas", { role: "img", "aria-label": `${row.name} keeps ${kept} of ${n} tokens` });
      paints.push([canvas, (t) => row.kept[t]]);
      body.append(
        el(
          "tr",
          {},
          el(
            "th",
            { scope: "row", title: row.says },
            el("span", { class: "sk-index", text: String(i + 1) }),
            row.name,
          ),
          el("td", { class: "sk-marks" }, canvas),
          el("td", { class: "sk-num", text: percent(kept / n) }),
          el("td", { class: "sk-num", text: percent(SpecKD.keptShare(gated.divergence, row.kept)) }),
        ),
      );
    });
    const soft = el("canvas", { role: "img", "aria-label": "Hellinger weights, from 0 to 1" });
    paints.push([soft, (t) => trace.hellinger[t]]);
    body.append(
      el(
        "tr",
        { class: "sk-soft" },
        el(
          "th",
          { scope: "row", title: "a weight, not a choice: the design that SelecTKD rejects" },
          el("span", { class: "sk-index" }),
          "Hellinger weight",
        ),
        el("td", { class: "sk-marks" }, soft),
        el("td", { class: "sk-num", text: "soft" }),
        el("td", { class: "sk-num", text: percent(SpecKD.keptShare(gated.divergence, trace.hellinger)) }),
      ),
    );
    table.replaceChildren(header, body);
    for (const [canvas, level] of paints) marks(canvas, level, n);
    place();

    const head = el("tr", {}, el("td", {}));
    rows.forEach((row, i) =>
      head.append(
        el(
          "th",
          { scope: "col", title: row.name },
          el("span", { "aria-hidden": "true", text: String(i + 1) }),
          el("span", { class: "sk-hidden", text: row.name }),
        ),
      )
    );
    const cells = el("tbody", {});
    rows.forEach((row, i) => {
      const line = el(
        "tr",
        {},
        el("th", { scope: "row" }, el("span", { class: "sk-index", text: String(i + 1) }), row.name),
      );
      rows.forEach((other, j) => {
        const value = SpecKD.jaccard(row.kept, other.kept);
        const cell = el("td", {
          class: "sk-num" + (i === j ? " sk-same" : ""),
          text: i === j ? "·" : value.toFixed(2),
        });
        if (i !== j) cell.style.setProperty("--j", value.toFixed(2));
        line.append(cell);
      });
      cells.append(line);
    });
    jaccard.replaceChildren(el("thead", {}, head), cells);
    const expected = m > 0 ? m / (2 * n - m) : 0;
    chance.textContent =
      `Jaccard: tokens kept by both, over tokens kept by either. Two random choices of ${m} of ${n} would agree to about ${
        number(expected, 2)
      }.`;
  }

  function marks(canvas, level, n) {
    const ratio = devicePixelRatio || 1;
    const width = canvas.parentNode.clientWidth;
    canvas.style.width = width + "px";
    canvas.style.height = ROW + "px";
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = ROW * ratio;
    const paint = canvas.getContext("2d");
    const style = getComputedStyle(box);
    const ink = style.getPropertyValue("--sk-mark").trim();
    const pale = style.getPropertyValue("--sk-rule").trim();
    const step = canvas.width / n;
    const gap = step > 4 * ratio ? ratio : 0;
    for (let t = 0; t < n; t++) {
      const high = level(t);
      paint.fillStyle = pale;
      paint.fillRect(t * step, canvas.height - 2 * ratio, Math.max(step - gap, 0.5), 2 * ratio);
      if (high > 0) {
        paint.fillStyle = ink;
        const tall = Math.max(2 * ratio, high * (canvas.height - 2 * ratio));
        paint.fillRect(t * step, canvas.height - tall, Math.max(step - gap, 0.5), tall);
      }
    }
  }
  function place() {
    const canvas = marksOf();
    const put = (node, t) => {
      node.style.display = canvas && trace && t >= 0 ? "" : "none";
      if (!canvas || !trace || t < 0) return;
      const frame = canvas.getBoundingClientRect();
      const outer = rowsBox.getBoundingClientRect();
      const step = frame.width / trace.tokens.length;
      node.style.transform = `translateX(${frame.left - outer.left + t * step}px)`;
      node.style.width = Math.max(2, step) + "px";
    };
    put(overlay, hovered);
    put(pinMark, pinned);
  }

  return {
    setTrace: (next) => {
      trace = next;
    },
    paint: (nextGated, nextKnobs) => {
      [gated, knobs] = [nextGated, nextKnobs];
      draw();
    },
    setCursor: (t) => {
      hovered = t;
      place();
    },
    setPinned: (t) => {
      pinned = t;
      place();
    },
    refresh: () => {
      if (stale) draw();
      else place();
    },
    repaint: () => draw(),
    element: box,
    destroy: () => observer.disconnect(),
  };
};
