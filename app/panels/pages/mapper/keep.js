/* What a visitor takes home from the map: its cells as CSV, the picture as PNG, one page as HTML, and the link. */

const { el, tr } = SpecKD;
const COLUMNS = ["study", "student", "text", "objective", "learning_rate", "steps", "batch_size", "gate"];
const NUMBERS = ["mean", "low", "high", "n", "q", "visible", "verdict"];
const SCALE = 2; // pixels of the PNG for one of the page's

/* A cell of a table that a spreadsheet opens: no text in it is ever a formula. */
function cellText(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@]/.test(text) ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
SpecKD.mapCsv = function (cells, map) {
  const head = [...COLUMNS, "part", "against", "screening", "figure", ...NUMBERS];
  const lines = cells.tiles.map(({ arm, figure, cell }) => [
    ...COLUMNS.map((name) => arm[name]),
    arm.parts.join("+"),
    map.control,
    arm.screening,
    figure,
    ...NUMBERS.map((name) => cell[name]),
  ]);
  return [head, ...lines].map((line) => line.map(cellText).join(",")).join("\n") + "\n";
};

/* --- one page, without a server: the sentence and the map as a table --------------------------------------------- */

const PAGE_STYLE = `body{font:15px/1.45 sans-serif;margin:24px auto;max-width:1100px;padding:0 16px;color:#1c1f24}
h1{font-size:20px}table{border-collapse:separate;border-spacing:3px}th{text-align:left;font-weight:500;padding:3px 8px}
td{padding:6px 10px;text-align:center;border-radius:5px;white-space:nowrap}small{color:#5b626d;display:block}
.zero{background-image:repeating-linear-gradient(135deg,rgba(74,82,94,.4) 0 1px,transparent 1px 6px)}
.few{border:1px dotted #8b929c}.screening{border:1.5px dashed #1c1f24}p{max-width:60em}`;
const HUES = { better: "47, 111, 222", worse: "232, 135, 30" };
const fill = (one, most = 0.62) =>
  `rgba(${one.better ? HUES.better : HUES.worse}, ${(0.05 + most * one.strength).toFixed(3)})`;
const markOf = ({ cell }) =>
  cell.verdict === "few" ? ` (${cell.n}×)` : ["helps", "hurts"].includes(cell.verdict) ? " ●" : "";

function pageTable(cells) {
  const { view } = cells;
  const head = el("tr", {}, el("th", {}));
  for (const column of cells.columns) {
    const more = el("small", { text: SpecKD.columnWords(cells, column) });
    head.append(el("th", { scope: "col" }, SpecKD.factorValue(view.columns, column), more));
  }
  const body = el("tbody", {});
  for (const row of cells.rows) {
    const line = el("tr", {}, el("th", { scope: "row", text: SpecKD.factorValue(view.rows, row) }));
    for (const column of cells.columns) {
      const tiles = cells.at(row, column);
      const text = tiles.map((one) => SpecKD.figureChange(one.figure, one.cell.mean) + markOf(one)).join("; ");
      const first = tiles[0];
      const kinds = first
        ? [first.holdsZero && "zero", first.cell.verdict === "few" && "few", first.arm.screening && "screening"]
        : [];
      const title = tiles.map((one) => SpecKD.tileWords(one, cells.varied)).join("\n");
      const look = first ? `background-color: ${fill(first)}` : "";
      line.append(el("td", { class: kinds.filter(Boolean).join(" "), style: look, title, text: text || "·" }));
    }
    body.append(line);
  }
  return el("table", {}, el("thead", {}, head), body);
}
function keptPage({ cells, map, view }, language) {
  const legend = tr(
    "Hatched: the 95% interval holds zero. ●: stands out after Benjamini and Hochberg’s correction, at 5%.",
  );
  const says = `${SpecKD.figureName(view.figure)}: ${tr(speckdWords.study.figures[view.figure].says)}.`;
  const whole = el("main", {});
  whole.append(
    el("h1", { text: SpecKD.mapSentence(cells, map) }),
    el("p", { text: says }),
    pageTable(cells),
    el("p", { text: legend }),
    el("p", {
      text: tr("{n} runs; q over the {cells} cells of the plans, each by itself.", {
        n: map.n_runs,
        cells: map.n_cells,
      }),
    }),
  );
  const head = el("head", {}, el("meta", { charset: "utf-8" }), el("title", { text: "SpecKD Lab: map" }));
  head.append(el("style", { text: PAGE_STYLE }));
  const document = el("html", { lang: language }, head, el("body", {}, whole));
  return "<!doctype html>\n" + document.outerHTML + "\n";
}

/* --- the picture -------------------------------------------------------------------------------------------------- */

const [LEFT, WIDE, LEAST, HIGH, GAP, TOP] = [210, 118, 76, 40, 4, 104];
function wrapped(pen, text, room, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (pen.measureText(longer).width <= room || !lines.at(-1)) lines[lines.length - 1] = longer;
    else if (lines.length < most) lines.push(word);
    else {
      lines[lines.length - 1] += "…";
      break;
    }
  }
  return lines;
}
class Painter {
  constructor(cells, map, host) {
    this.cells = cells;
    this.map = map;
    const style = getComputedStyle(host);
    this.colour = (name) => style.getPropertyValue(`--sk-${name}`).trim();
    this.family = style.fontFamily;
    const ruler = el("canvas").getContext("2d");
    ruler.font = `600 17px ${this.family}`;
    // a column is as wide as its fullest cell needs
    const fullest = (column) => Math.max(...cells.rows.map((row) => cells.at(row, column).length));
    this.wide = cells.columns.map((column) => Math.max(WIDE, LEAST * fullest(column)));
    this.left = this.wide.map((_, i) => LEFT + this.wide.slice(0, i).reduce((sum, one) => sum + one + GAP, 0));
    this.width = Math.max(720, LEFT + this.wide.reduce((sum, one) => sum + one + GAP, 0) + 24);
    this.title = wrapped(ruler, SpecKD.mapSentence(cells, map), this.width - 48, 4);
    this.above = 24 + this.title.length * 23;
    this.height = this.above + TOP + cells.rows.length * (HIGH + GAP) + 60;
    this.canvas = el("canvas", { width: this.width * SCALE, height: this.height * SCALE });
    this.pen = this.canvas.getContext("2d");
    this.pen.scale(SCALE, SCALE);
  }
  write(text, x, y, { look = "13px", ink = "ink", align = /** @type {CanvasTextAlign} */ ("left") } = {}) {
    this.pen.font = `${look} ${this.family}`;
    this.pen.fillStyle = this.colour(ink);
    this.pen.textAlign = align;
    this.pen.fillText(text, x, y);
  }
  paint() {
    const { pen, cells } = this;
    const { view } = cells;
    pen.fillStyle = this.colour("surface");
    pen.fillRect(0, 0, this.width, this.height);
    this.title.forEach((line, i) => this.write(line, 24, 34 + i * 23, { look: "600 17px" }));
    const x = (column) => this.left[column];
    const y = (row) => this.above + TOP + row * (HIGH + GAP);
    cells.columns.forEach((column, i) => {
      this.write(SpecKD.factorValue(view.columns, column).slice(0, 20), x(i), this.above + 18, { look: "600 13px" });
      pen.font = `11px ${this.family}`;
      wrapped(pen, SpecKD.columnWords(cells, column), this.wide[i], 5)
        .forEach((line, n) => this.write(line, x(i), this.above + 34 + n * 14, { look: "11px", ink: "muted" }));
    });
    cells.rows.forEach((row, i) => {
      pen.font = `13px ${this.family}`;
      const name = wrapped(pen, SpecKD.factorValue(view.rows, row), LEFT - 36, 2);
      name.forEach((line, n) => this.write(line, 24, y(i) + HIGH / 2 + 5 + (n - (name.length - 1) / 2) * 15));
      cells.columns.forEach((column, at) => this.tiles(cells.at(row, column), x(at), y(i), this.wide[at]));
    });
    const note = tr(
      "Hatched: the 95% interval holds zero. ●: stands out after Benjamini and Hochberg’s correction, at 5%.",
    );
    this.write(note, 24, this.height - 34, { ink: "muted" });
    const told = tr("{n} runs; q over the {cells} cells of the plans, each by itself.", {
      n: this.map.n_runs,
      cells: this.map.n_cells,
    });
    this.write(`SpecKD Lab. ${SpecKD.figureName(view.figure)}. ${told}`, 24, this.height - 14, { ink: "muted" });
  }
  tiles(tiles, x, y, room) {
    const wide = room / Math.max(1, tiles.length);
    tiles.forEach((one, i) => this.tile(one, x + i * wide, y, wide - (tiles.length > 1 ? 2 : 0)));
  }
  tile(one, x, y, wide) {
    const { pen } = this;
    pen.fillStyle = fill(one);
    pen.fillRect(x, y, wide, HIGH);
    if (one.holdsZero) {
      pen.save();
      pen.beginPath();
      pen.rect(x, y, wide, HIGH);
      pen.clip();
      pen.strokeStyle = this.colour("probe-hatch");
      pen.lineWidth = 0.8;
      pen.beginPath();
      for (let step = -HIGH; step < wide + HIGH; step += 6) {
        pen.moveTo(x + step, y + HIGH);
        pen.lineTo(x + step + HIGH, y);
      }
      pen.stroke();
      pen.restore();
    }
    if (one.arm.screening) {
      pen.strokeStyle = this.colour("ink");
      pen.setLineDash([4, 3]);
      pen.strokeRect(x + 0.5, y + 0.5, wide - 1, HIGH - 1);
      pen.setLineDash([]);
    }
    const text = SpecKD.figureChange(one.figure, one.cell.mean) + markOf(one);
    pen.font = `13px ${this.family}`;
    const room = pen.measureText(text).width + 8;
    if (one.holdsZero) {
      pen.fillStyle = this.colour("surface");
      pen.fillRect(x + (wide - room) / 2, y + HIGH / 2 - 9, room, 18);
    }
    this.write(text, x + wide / 2, y + HIGH / 2 + 5, { align: "center" });
  }
}

/* The map as a PNG, in the colours of its host. */
SpecKD.mapImage = function (cells, map, host) {
  const painter = new Painter(cells, map, host);
  painter.paint();
  return new Promise((done) => painter.canvas.toBlob(done, "image/png"));
};

SpecKD.createMapKeep = function ({ state, say, copyLink, host, language }) {
  const button = el("button", { type: "button", class: "sk-button sk-quiet", text: tr("Keep") });
  const save = (name, kind, text) => {
    SpecKD.download(new Blob([text], { type: `${kind};charset=utf-8` }), name);
    say("done", tr("Saved {name}.", { name }));
  };
  function saveCsv() {
    const { cells, map } = state();
    save("speckd-map.csv", "text/csv", SpecKD.mapCsv(cells, map));
  }
  async function savePng() {
    const { cells, map } = state();
    const blob = await SpecKD.mapImage(cells, map, host());
    if (!blob) {
      say("failed", tr("This browser did not make the picture: keep the page instead."));
      return;
    }
    SpecKD.download(blob, "speckd-map.png");
    say("done", tr("Saved {name}.", { name: "speckd-map.png" }));
  }
  return {
    button,
    /* Once the button stands on the page. */
    mount() {
      const menu = SpecKD.popup(button, "sk-popup-keep");
      menu.add(tr("Cells as CSV"), tr("every comparison in view, with interval and q"), saveCsv);
      menu.add(tr("Picture as PNG"), tr("the map as it is in view"), savePng);
      menu.add(tr("Page as HTML"), tr("one file, without a server"), () => {
        save("speckd-map.html", "text/html", keptPage(state(), language));
      });
      menu.add(tr("Copy link"), tr("figure, axes, control and comparison, in the address"), copyLink);
    },
  };
};
