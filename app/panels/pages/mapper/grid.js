/* The map itself: a table whose cells hold one button for each comparison. Arrow keys go from one to the next; the line
   below the table says what the one under pointer or focus shows, and a screen reader hears the same. */

const { el, tr } = SpecKD;
const WAYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/* "Top-k, k = 5; core: +0.607 points (+0.31 to +0.91), better, 4 seeds, q 0.034". */
SpecKD.tileWords = function (one, varied) {
  const { arm, figure, cell } = one;
  const span = SpecKD.intervalWords(figure, cell);
  const told = {
    arm: SpecKD.armName(arm.gate),
    where: [SpecKD.partNames(arm), SpecKD.settingWords(arm, varied)].filter(Boolean).join("; "),
    figure: SpecKD.figureName(figure),
    change: SpecKD.figureChange(figure, cell.mean, { unit: true }),
    interval: span ? tr("95% interval {span}", { span }) : tr("no interval"),
    verdict: SpecKD.verdictWords(figure, cell),
    n: cell.n,
    q: cell.q === null ? "–" : SpecKD.figures(cell.q, 2),
  };
  return tr("{arm} ({where}): {figure} {change}, {interval}; {verdict}. {n} seeds, q = {q}.", told);
};

class StudyGrid {
  constructor({ id, onOpen }) {
    this.onOpen = onOpen;
    this.readout = el("p", { class: "sk-map-readout sk-small", id: `${id}-readout` });
    this.box = el("div", { class: "sk-map-scroll" });
    this.element = el("div", { class: "sk-map-grid" }, this.box, this.readout);
    this.buttons = [];
    this.chosen = null;
  }

  show(cells, chosenKey, chosenFigure) {
    this.cells = cells;
    this.buttons = [];
    const corner = el("td", { class: "sk-map-corner" });
    const head = el("tr", {}, corner, ...cells.columns.map((column) => this.head(column)));
    const body = el("tbody", {});
    cells.rows.forEach((row, i) => {
      this.buttons.push([]);
      const line = el("tr", {}, el("th", { scope: "row", text: SpecKD.factorValue(cells.view.rows, row) }));
      for (const column of cells.columns) line.append(this.place(i, cells.at(row, column)));
      body.append(line);
    });
    const name = tr("Map: {rows} down, {columns} across", {
      rows: tr(speckdWords.study.factors[cells.view.rows].label),
      columns: tr(speckdWords.study.factors[cells.view.columns].label),
    });
    const table = el("table", { class: "sk-map-table", "aria-label": name }, el("thead", {}, head), body);
    table.addEventListener("keydown", (event) => this.move(event));
    this.box.replaceChildren(table);
    this.mark(chosenKey, chosenFigure);
  }
  head(column) {
    const { view } = this.cells;
    const more = SpecKD.columnWords(this.cells, column);
    return el(
      "th",
      { scope: "col" },
      el("span", { text: SpecKD.factorValue(view.columns, column) }),
      more ? el("small", { class: "sk-muted", text: more }) : null,
    );
  }
  place(row, tiles) {
    const cell = el("td", {});
    if (!tiles.length) {
      const dot = el("span", { "aria-hidden": "true", text: "·" });
      cell.append(el("span", { class: "sk-map-none" }, dot, el("span", { class: "sk-hidden", text: tr("not run") })));
      return cell;
    }
    const box = el("div", { class: "sk-map-tiles" });
    for (const one of tiles) box.append(this.button(row, one));
    cell.append(box);
    return cell;
  }
  button(row, one) {
    const { cell, arm, better } = one;
    const sure = cell.verdict === "helps" || cell.verdict === "hurts";
    const words = SpecKD.tileWords(one, this.cells.varied);
    const kinds = [
      "sk-map-tile",
      better ? "sk-map-better" : "sk-map-worse",
      one.holdsZero ? "sk-map-hatched" : "",
      cell.verdict === "few" ? "sk-map-few" : "",
      arm.screening ? "sk-map-screening" : "",
    ];
    const button = el(
      "button",
      {
        type: "button",
        class: kinds.filter(Boolean).join(" "),
        style: `--sk-strength: ${one.strength.toFixed(3)}`,
        tabindex: "-1",
        "aria-label": words,
        "data-key": arm.key,
        "data-figure": one.figure,
        "data-verdict": cell.verdict,
      },
      el("span", { class: "sk-map-number", text: SpecKD.figureChange(one.figure, cell.mean) }),
      el("span", { class: "sk-map-mark", text: sure ? "●" : cell.verdict === "few" ? `${cell.n}×` : "" }),
    );
    const tell = () => {
      this.readout.textContent = words;
    };
    button.addEventListener("pointerenter", tell);
    button.addEventListener("focus", tell);
    button.addEventListener("click", () => this.choose(one, button));
    this.buttons[row].push(button);
    return button;
  }

  choose(one, button) {
    this.mark(one.arm.key, one.figure);
    button.focus({ preventScroll: true });
    this.onOpen(one);
  }
  /* Which comparison is open; the only one that the Tab key stops at. */
  mark(key, figure) {
    const all = this.buttons.flat();
    const chosen = all.find((one) => one.dataset.key === key && one.dataset.figure === figure) ||
      all.find((one) => one.dataset.key === key);
    for (const one of all) {
      one.setAttribute("aria-pressed", String(one === chosen));
      one.tabIndex = -1;
    }
    const stop = chosen || all[0];
    if (stop) stop.tabIndex = 0;
    if (chosen) this.readout.textContent = chosen.getAttribute("aria-label");
    else this.readout.textContent = "";
    this.chosen = chosen || null;
  }
  move(event) {
    const way = WAYS[event.key];
    const here = this.buttons.findIndex((row) => row.includes(event.target));
    if (!way || here < 0) return;
    event.preventDefault();
    const at = this.buttons[here].indexOf(event.target);
    let next = null;
    if (way[1]) next = this.buttons[here][at + way[1]];
    else {
      for (let row = here + way[0]; row >= 0 && row < this.buttons.length && !next; row += way[0]) {
        next = this.below(this.buttons[row], event.target);
      }
    }
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
  /* Of a row's buttons the one that stands nearest to another, across. */
  below(row, other) {
    const middle = (node) => node.getBoundingClientRect().left + node.offsetWidth / 2;
    const away = (node) => Math.abs(middle(node) - middle(other));
    return [...row].sort((a, b) => away(a) - away(b))[0] || null;
  }
}

SpecKD.createStudyGrid = (options) => new StudyGrid(options);

/* What colours and marks mean. */
SpecKD.mapLegend = function () {
  const sample = (kind, text) =>
    el("span", { class: "sk-map-key" }, el("i", { class: `sk-map-sample ${kind}`, "aria-hidden": "true" }), text);
  const dot = el("span", { class: "sk-map-key" });
  dot.append(el("i", { class: "sk-map-dot", "aria-hidden": "true", text: "●" }));
  dot.append(tr("stands out after Benjamini and Hochberg’s correction over all figures, at 5%"));
  return el(
    "div",
    { class: "sk-map-legend sk-small" },
    sample("sk-map-better", tr("better than the control")),
    sample("sk-map-worse", tr("worse")),
    sample("sk-map-hatched", tr("the 95% interval holds zero")),
    sample("sk-map-few", tr("fewer than three seeds")),
    sample("sk-map-screening", tr("screening: suggests, and proves nothing")),
    dot,
  );
};
