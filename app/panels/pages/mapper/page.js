/* The Map page: where the gate helps and where it does not, from the study that ships. No model is needed.

   Above all one sentence that is counted from the cells in view. Then the map, and beside it the comparison that is
   open; below, the written questions, what the gate masks, and Theorem 1 as it was measured. */

const { el, tr } = SpecKD;
let serial = 0;

/** @type {() => FormRow[]} */
const viewTable = () => {
  const { figures, factors, controls } = speckdWords.study;
  const axis = Object.keys(factors);
  return [
    { field: "figure", key: "figure", kind: "choice", of: Object.keys(figures) },
    { field: "rows", key: "rows", kind: "choice", of: axis },
    { field: "columns", key: "columns", kind: "choice", of: axis },
    { field: "control", key: "against", kind: "choice", of: Object.keys(controls) },
    { field: "runs", key: "runs", kind: "choice", of: ["all", "confirming", "screening"] },
    { field: "cell", key: "cell", kind: "text" },
  ];
};
const FIRST = { figure: "acceptance", rows: "gate", columns: "part", control: "none", runs: "all", cell: "" };

/* Once it is on screen: a tab that nobody opens asks for nothing. */
const seen = (node) =>
  new Promise((done) => {
    const watch = new ResizeObserver(() => {
      if (!node.getClientRects().length) return;
      watch.disconnect();
      done();
    });
    watch.observe(node);
  });

class MapPage {
  constructor(root, options) {
    this.root = root;
    this.server = options.server;
    this.language = SpecKD.language;
    this.id = `sk-mapper-${++serial}`;
    this.address = serial === 1 ? SpecKD.address : null; // one page of its kind owns the address
    this.form = SpecKD.createForm(viewTable());
    this.view = { ...FIRST };
    this.maps = new Map(); // control -> its cells
    this.ticket = 0; // the newest wish; an answer to an older one is not shown
    this.booted = false;
    this.makeNodes(options);
  }

  makeNodes({ race }) {
    this.inputs = {};
    this.status = el("p", { class: "sk-map-status sk-small", role: "status" });
    this.sentence = el("h1", { class: "sk-map-sentence" });
    this.beneath = el("p", { class: "sk-small sk-muted sk-map-beneath" });
    this.grid = SpecKD.createStudyGrid({ id: this.id, onOpen: (one) => this.open(one) });
    this.opened = SpecKD.createOpened({
      id: this.id,
      race,
      copy: (...words) => SpecKD.copyText((state, text) => this.say(state, text), ...words),
    });
    this.beside = SpecKD.createMapBeside({ onOpen: (asked) => this.follow(asked) });
    this.keep = SpecKD.createMapKeep({
      state: () => ({ map: this.map(), cells: this.cells, view: this.view }),
      say: (state, text) => this.say(state, text),
      copyLink: () => this.copyLink(),
      host: () => this.app,
      language: this.language.code,
    });
    const main = el(
      "section",
      { class: "sk-map-card sk-map-main", "aria-label": tr("The map") },
      this.makeControls(),
      this.sentence,
      this.beneath,
      this.grid.element,
      SpecKD.mapLegend(),
      el("div", { class: "sk-foot" }, this.status, this.keep.button),
    );
    const sheet = el("div", { class: "sk-map-sheet" }, main, this.opened.element, this.beside.first);
    const about = { lang: this.language.code, dir: this.language.direction };
    this.app = el("div", { class: "sk-app sk-map", ...about }, sheet, this.beside.element);
    this.root.append(this.app);
    this.keep.mount();
  }
  makeControls() {
    const { figures, factors, controls } = speckdWords.study;
    const named = (table) => Object.fromEntries(Object.entries(table).map(([key, one]) => [key, tr(one.label || one)]));
    const axes = named(factors);
    const runs = { all: tr("all runs"), confirming: tr("confirming"), screening: tr("screening") };
    return el(
      "div",
      { class: "sk-map-controls" },
      this.select("figure", tr("Figure"), named(figures)),
      this.select("rows", tr("Down"), axes),
      this.select("columns", tr("Across"), axes),
      this.select("control", tr("Against"), named(controls)),
      this.select("runs", tr("Runs"), runs),
    );
  }
  select(field, label, choices) {
    const id = `${this.id}-${field}`;
    const options = Object.entries(choices).map(([value, text]) => el("option", { value, text }));
    const input = el("select", { class: "sk-select", id, "data-field": field }, ...options);
    input.addEventListener("change", () => this.change({ [field]: input.value }));
    this.inputs[field] = input;
    return el("span", { class: "sk-field" }, el("label", { for: id, text: label }), input);
  }

  say(state, text) {
    this.status.textContent = text;
    this.status.dataset.state = state;
  }
  map() {
    return this.maps.get(this.view.control) || null;
  }

  /* --- what is in view ----------------------------------------------------------------------------------------- */

  change(part) {
    const next = { ...this.view, ...part };
    if (next.rows === next.columns) { // one factor cannot stand on both sides: they change places
      if (part.rows) next.columns = this.view.rows;
      else next.rows = this.view.columns;
    }
    this.view = next;
    return this.show();
  }
  async show() {
    const mine = ++this.ticket;
    for (const [field, input] of Object.entries(this.inputs)) input.value = this.view[field];
    this.inputs.figure.disabled = [this.view.rows, this.view.columns].includes("figure");
    if (!this.map() && !(await this.fetchMap(this.view.control))) return;
    if (mine !== this.ticket) return;
    this.paint();
    this.remember();
    if (this.root.getClientRects().length) await this.showCell();
  }
  async fetchMap(control) {
    try {
      const answer = await this.server.cells(control);
      if (answer && answer.map) {
        this.maps.set(control, JSON.parse(answer.map));
        return true;
      }
      this.say("failed", SpecKD.told((answer && answer.error) || SpecKD.NO_ANSWER));
    } catch {
      this.say("failed", SpecKD.told(SpecKD.NO_ANSWER));
    }
    return false;
  }
  paint() {
    const map = this.map();
    this.cells = SpecKD.mapCells(map, this.view);
    this.sentence.textContent = SpecKD.mapSentence(this.cells, map);
    const { says } = speckdWords.study.figures[this.view.figure];
    const every = this.inputs.figure.disabled;
    const told = tr("{n} runs; q over the {cells} cells of the plans, each by itself.", {
      n: map.n_runs,
      cells: map.n_cells,
    });
    this.beneath.textContent = every ? told : `${SpecKD.figureName(this.view.figure)}: ${tr(says)}. ${told}`;
    const chosen = this.chosen();
    this.grid.show(this.cells, chosen ? chosen.arm.key : "", chosen ? chosen.figure : "");
    this.root.dataset.tiles = String(this.cells.tiles.length);
  }
  /* The comparison that the address names, else the first of the map. */
  chosen() {
    const { tiles } = this.cells;
    const { view } = this; // not the cells' own: another comparison may have been opened since
    const named = tiles.filter((one) => one.arm.key === view.cell);
    return named.find((one) => one.figure === view.figure) || named[0] || tiles[0] || null;
  }

  open(one) {
    this.view = { ...this.view, cell: one.arm.key, figure: one.figure };
    this.inputs.figure.value = one.figure;
    this.remember();
    return this.showCell({ reveal: true });
  }
  async showCell({ reveal = false } = {}) {
    const chosen = this.chosen();
    if (!chosen) {
      this.opened.clear();
      return;
    }
    const { control } = this.view;
    await this.opened.show(chosen, control, () => this.server.cell({ key: chosen.arm.key, control }));
    if (reveal && matchMedia("(max-width: 1000px)").matches) {
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      this.opened.element.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
    }
  }
  /* A written question, opened on the map: its figure, control, and the comparison itself. */
  async follow({ figure, control, part, gate }) {
    if (!Object.hasOwn(speckdWords.study.controls, control)) return;
    await this.change({ figure, control, rows: "gate", columns: "part", runs: "all" });
    const found = this.cells.tiles.filter(({ arm }) => arm.gate === gate && arm.parts.includes(part));
    const one = found.find(({ arm }) => !arm.screening) || found[0];
    if (!one) return;
    this.grid.mark(one.arm.key, figure);
    await this.open(one);
    this.app.scrollIntoView({ block: "start" });
    if (this.grid.chosen) this.grid.chosen.focus({ preventScroll: true });
  }

  /* --- the address --------------------------------------------------------------------------------------------- */

  remember() {
    const params = new URLSearchParams();
    for (const [key, value] of this.form.toParams(this.view)) {
      const row = viewTable().find((one) => one.key === key);
      if (value !== FIRST[row.field]) params.set(key, value);
    }
    if (this.address) this.address.write("map", params);
  }
  copyLink() {
    this.remember();
    return SpecKD.copyLink((state, text) => this.say(state, text));
  }

  /* --- the beginning ------------------------------------------------------------------------------------------- */

  update(value) {
    if (this.booted) return;
    this.booted = true;
    if (value.error || !value.map) {
      this.sentence.textContent = SpecKD.told(value.error || SpecKD.NO_ANSWER);
      this.app.classList.add("sk-map-broken");
      return;
    }
    this.maps.set("none", JSON.parse(value.map));
    if (this.address) {
      this.view = { ...FIRST, ...this.form.fromParams(this.address.params("map")) };
      if (this.view.rows === this.view.columns) this.view = { ...this.view, rows: FIRST.rows, columns: FIRST.columns };
      this.address.listen("map", (params) => {
        this.view = { ...FIRST, ...this.form.fromParams(params) };
        this.show();
      });
    }
    this.show();
    seen(this.app).then(async () => {
      if (this.cells) await this.showCell();
      await this.showBeside();
    });
  }
  /* A study that goes on has more runs than when the page was made. */
  async renew(stamp) {
    const map = this.map();
    if (!map || map.stamp === stamp) return;
    this.maps.clear();
    this.opened.clear();
    await this.show();
  }
  async showBeside() {
    try {
      const answer = await this.server.beside(null);
      if (answer && answer.beside) {
        const beside = JSON.parse(answer.beside);
        this.beside.show(beside);
        await this.renew(beside.stamp);
      } else this.say("failed", SpecKD.told((answer && answer.error) || SpecKD.NO_ANSWER));
    } catch {
      this.say("failed", SpecKD.told(SpecKD.NO_ANSWER));
    }
    this.root.dataset.shown = "1";
  }
}

SpecKD.createMapper = function (root, options) {
  const page = new MapPage(root, options);
  root.mapper = page;
  return (value) => page.update(value);
};
