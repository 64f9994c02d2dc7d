/* The probe's heatmap on a canvas: where rows and columns are, and how they are painted. What it shows comes as a view:
   {run, rows, past, tokens, fill, pinned, accepts(row, t), rate(row)}, `past` being the row of the moment. */

const { el, percent } = SpecKD;
const LEFT = 38; // pixels for the steps' numbers
const RIGHT = 44; // for each row's acceptance rate
const TOP = 52; // for the tokens, aslant
const LEAST_ROW = 3;
const LEAST_COLUMN = 14; // room for a name aslant above it
const MOST_ROW = 26;
const TO_COME = 0.3; // opacity of rows after the moment
const SHADES = [0.05, 0.92]; // opacity of the palest and the strongest fill, as in Inspect's lanes
const TILE = 5; // pixels that a hatching repeats after

/* A row is as high as the steps it stands for: a new one never moves those above it. */
SpecKD.probeShape = function (run, n, box) {
  const all = run.racers.flatMap((one) => one.probes.map((row) => row.step)).sort((a, b) => a - b);
  const steps = all.filter((step, i) => step !== all[i - 1]);
  let stride = Math.max(1, Math.ceil(run.steps / 24));
  if (steps.length > 1) stride = Math.min(...steps.slice(1).map((step, i) => step - steps[i]));
  const count = Math.max(1, Math.ceil(Math.max(run.steps, steps.at(-1) ?? 0) / stride) + 1);
  const width = Math.max(box.clientWidth, LEFT + RIGHT + n * LEAST_COLUMN);
  const column = (width - LEFT - RIGHT) / Math.max(1, n);
  const top = column >= LEAST_COLUMN ? TOP : 8;
  const room = Math.max(80, box.clientHeight - top - 4);
  const high = Math.min(MOST_ROW, Math.max(LEAST_ROW, room / count));
  const y = (row) => top + Math.round((row.step / stride) * high);
  const tall = (row) => y({ step: row.step + stride }) - y(row);
  const x = (t) => LEFT + t * column;
  const height = Math.floor(top + count * high + 4);
  return { n, stride, count, width, column, top, high, height, y, tall, x, left: LEFT };
};

/* Text cut to the room there is. */
function cut(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  const characters = Array.from(text.slice(0, 40));
  while (characters.length > 1 && pen.measureText(characters.join("") + "…").width > room) characters.pop();
  return characters.join("") + "…";
}

class Heatmap {
  constructor(canvas, sheet, host) {
    this.canvas = canvas;
    this.sheet = sheet;
    this.host = host;
    this.pattern = null;
  }
  /* The theme is another one. */
  refresh() {
    this.pattern = null;
  }

  paint(shape, view) {
    const style = getComputedStyle(this.host);
    const pen = this.prepare(shape);
    this.colour = (name) => style.getPropertyValue(name).trim();
    this.font = (size, weight = 400) => {
      pen.font = `${weight} ${size}px ${style.fontFamily}`;
    };
    const all = view.run.racers.flatMap((racer) => racer.probes); // one scale for both racers
    const finite = all.flatMap((row) => row.divergence.filter((d) => Number.isFinite(d)));
    const largest = Math.max(1e-9, ...finite);
    this.paintHead(pen, shape, view);
    pen.fillStyle = this.colour("--sk-ground"); // steps that are still to come have their place
    pen.fillRect(shape.left, shape.top, shape.n * shape.column, shape.count * shape.high);
    pen.textBaseline = "middle";
    view.rows.forEach((row, i) => {
      pen.globalAlpha = i > view.past ? TO_COME : 1;
      this.paintRow(pen, shape, view, row, largest);
      this.paintNumbers(pen, shape, view, row, i);
    });
    this.paintRejected(pen, shape, view);
    pen.globalAlpha = 1;
    return largest;
  }

  prepare({ width, height }) {
    const { canvas, sheet } = this;
    const ratio = devicePixelRatio || 1;
    const [wide, tall] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== wide || canvas.height !== tall) {
      [canvas.width, canvas.height] = [wide, tall];
      for (const { style } of [canvas, sheet]) [style.width, style.height] = [width + "px", height + "px"];
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return pen;
  }

  paintHead(pen, { column, x, top, width }, { tokens, pinned }) {
    this.font(11);
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    if (column >= LEAST_COLUMN) {
      tokens.forEach((text, t) => {
        pen.save();
        pen.translate(x(t) + column / 2 + 2, top - 6);
        pen.rotate(-Math.PI / 3.4);
        pen.fillStyle = this.colour(t === pinned ? "--sk-ink" : "--sk-muted");
        pen.fillText(cut(pen, SpecKD.shown(text), TOP - 2), 0, 0);
        pen.restore();
      });
    }
    pen.fillStyle = this.colour("--sk-muted");
    pen.fillText(SpecKD.told("step"), 0, top - 5);
    pen.textAlign = "right";
    pen.fillText("TAR", width - 4, top - 5);
  }

  paintRow(pen, shape, { fill }, row, largest) {
    const gap = shape.high >= 9 ? 1 : 0;
    const blue = this.colour("--sk-teacher-rgb");
    const y = shape.y(row);
    const tall = shape.tall(row) - gap;
    for (let t = 0; t < shape.n; t++) {
      const strength = fill === "acceptance" ? 1 - row.tvd[t] : Math.min(1, row.divergence[t] / largest);
      const amount = Math.max(0, Math.min(1, Number.isNaN(strength) ? 1 : strength));
      const [left, right] = [Math.round(shape.x(t)), Math.round(shape.x(t + 1))];
      pen.fillStyle = `rgba(${blue}, ${SHADES[0] + (SHADES[1] - SHADES[0]) * amount})`;
      pen.fillRect(left, y, right - left - gap, tall);
    }
  }
  /* Step and rate, where there is room; the looked-at row's always. */
  paintNumbers(pen, shape, { past, rate }, row, i) {
    const every = Math.max(1, Math.ceil(12 / shape.high));
    const looked = i === past;
    const clash = !looked && Math.abs(i - past) < every && past >= 0;
    if (clash || (!looked && i % every)) return;
    const middle = shape.y(row) + shape.high / 2;
    this.font(11, looked ? 700 : 400);
    pen.fillStyle = this.colour(looked ? "--sk-ink" : "--sk-muted");
    pen.textAlign = "right";
    pen.fillText(String(row.step), LEFT - 7, middle);
    pen.fillText(percent(rate(row)), shape.width - 4, middle);
  }
  /* All at once, up to the moment and after it: a fill for each cell would take many times as long. */
  paintRejected(pen, shape, { rows, past, accepts }) {
    const gap = shape.high >= 9 ? 1 : 0;
    const cells = [new Path2D(), new Path2D()];
    rows.forEach((row, i) => {
      for (let t = 0; t < shape.n; t++) {
        if (accepts(row, t)) continue;
        const [left, right] = [Math.round(shape.x(t)), Math.round(shape.x(t + 1))];
        cells[i > past ? 1 : 0].rect(left, shape.y(row), right - left - gap, shape.tall(row) - gap);
      }
    });
    cells.forEach((path, later) => {
      pen.globalAlpha = later ? TO_COME : 1;
      for (const paint of [this.colour("--sk-probe-veil"), this.hatching(pen, this.colour("--sk-probe-hatch"))]) {
        pen.fillStyle = paint;
        pen.fill(path);
      }
    });
  }
  hatching(pen, colour) {
    if (this.pattern && this.pattern.colour === colour) return this.pattern.made;
    const ratio = devicePixelRatio || 1;
    const tile = el("canvas", { width: Math.round(TILE * ratio), height: Math.round(TILE * ratio) });
    const line = tile.getContext("2d");
    line.scale(tile.width / TILE, tile.height / TILE);
    line.strokeStyle = colour;
    line.lineWidth = 1;
    line.beginPath();
    for (const shift of [-TILE, 0, TILE]) {
      line.moveTo(shift - 1, TILE + 1);
      line.lineTo(shift + TILE + 1, -1);
    }
    line.stroke();
    const made = pen.createPattern(tile, "repeat");
    made.setTransform(new DOMMatrix().scale(TILE / tile.width, TILE / tile.height));
    this.pattern = { colour, made };
    return made;
  }
}

SpecKD.createHeatmap = (canvas, sheet, host) => new Heatmap(canvas, sheet, host);
