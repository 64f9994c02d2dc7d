/* The picture as a PNG, drawn here: question, gate, strip and lanes. Nothing leaves the browser. */

const WIDTH = 1200;
const SCALE = 2;
const EDGE = 32;
const ROOM = WIDTH - 2 * EDGE;
const LINES = { plain: 38, interlinear: 62 }; // pixels from a line of the strip to the next
const BELOW = 62; // from the last line to the lanes
const ABOVE = "14px"; // the student's words
const LONGEST = 24; // characters of them
const LANES = 300;

const drawnGate = ({ gate, k, beta }) =>
  gate === "none" ? "all open" : `${SpecKD.GATES[gate].label}, k = ${k}, β = ${SpecKD.number(beta)}`;
function drawnLoss(gated, divergence) {
  const { kind, label } = SpecKD.DIVERGENCES[divergence];
  const [plain, counted] = [gated.plain, gated.gated].map((x) => SpecKD.format(x, kind, { unit: true }));
  return `TAR ${SpecKD.percent(gated.tar)}   ${label}: plain ${plain}, gated ${counted}`;
}

function hatch(paint, colour, { x, base, width, high }) {
  paint.fillStyle = colour("hatch-ground");
  const top = base + 7 - high;
  paint.fillRect(x - 1, top, width + 2, high);
  paint.save();
  paint.beginPath();
  paint.rect(x - 1, top, width + 2, high);
  paint.clip();
  paint.strokeStyle = colour("hatch");
  paint.beginPath();
  for (let step = -high; step < width + high; step += 5) {
    paint.moveTo(x + step, base + 7);
    paint.lineTo(x + step + high, top);
  }
  paint.stroke();
  paint.restore();
}
/* The mark of a word: underlined where accepted, hatched and dashed where rejected. */
function drawMark(paint, colour, { x, base, width, high, accepted }) {
  if (accepted) {
    paint.fillStyle = colour("teacher");
    paint.fillRect(x - 1, base + 5, width + 2, 2.5);
    return;
  }
  hatch(paint, colour, { x, base, width, high });
  paint.setLineDash([4, 3]);
  paint.strokeStyle = colour("strong-rule");
  paint.strokeRect(x - 1, base + 7 - high, width + 2, high);
  paint.setLineDash([]);
}
/* One token, filled by its chance, with its mark; or below the student's word, which then bears the mark. */
function drawToken(paint, colour, font, { x, base, width, text, proposed, accepted, chance }) {
  const [red, green, blue] = colour("teacher-rgb").split(",").map(Number);
  if (proposed === null) drawMark(paint, colour, { x, base, width, high: 26, accepted });
  paint.fillStyle = `rgba(${red}, ${green}, ${blue}, ${0.34 * chance})`;
  paint.fillRect(x - 1, base - 19, width + 2, 26);
  const middle = (word) => x + (width - paint.measureText(word).width) / 2;
  paint.font = font("19px");
  paint.fillStyle = colour("ink");
  paint.fillText(text, proposed === null ? x : middle(text), base);
  if (proposed === null) return;
  paint.font = font(ABOVE);
  const wide = paint.measureText(proposed).width;
  const [left, above] = [middle(proposed), base - 24];
  drawMark(paint, colour, { x: left, base: above - 3, width: wide, high: 19, accepted });
  paint.fillStyle = colour("student");
  paint.fillText(proposed, left, above);
  if (!accepted) paint.fillRect(left, above - 5, wide, 1.2); // struck through
}

function paintMarks(paint, { colour, font }, marks, { trace, gated, left, top, step }) {
  for (const { t, x, line, width, text, proposed } of marks) {
    const chance = Math.max(0, Math.min(1, SpecKD.acceptanceOfOneDraw(trace, t)));
    const accepted = gated.accepted[t] === 1;
    drawToken(paint, colour, font, { x: left + x, base: top + line * step, width, text, proposed, accepted, chance });
  }
}

/* The first lines of a strip, into another picture; gives back how many there are. */
SpecKD.paintStrip = function (paint, look, { trace, gated, left, top, width, most, interlinear }) {
  const { marks, lines } = layOut(paint, look.font, trace, interlinear, width);
  const step = interlinear ? LINES.interlinear : LINES.plain;
  const shown = marks.filter(({ line }) => line < most);
  paintMarks(paint, look, shown, { trace, gated, left, top: top + step - 16, step });
  return { lines: Math.min(lines, most), height: Math.min(lines, most) * step };
};

function canvasOf(height, ground) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * SCALE;
  canvas.height = height * SCALE;
  const paint = canvas.getContext("2d");
  paint.scale(SCALE, SCALE);
  paint.fillStyle = ground;
  paint.fillRect(0, 0, WIDTH, height);
  paint.textBaseline = "alphabetic";
  return { canvas, paint };
}

SpecKD.toPng = function (picture, lanes, host, { interlinear = false } = {}) {
  const { trace, gated, knobs } = picture.state;
  const style = getComputedStyle(host);
  const colour = (name) => style.getPropertyValue("--sk-" + name).trim();
  const font = (look) => `${look} ${style.fontFamily}`;
  const ruler = document.createElement("canvas").getContext("2d");
  const question = wrap(ruler, font("600 22px"), SpecKD.visible(trace.prompt).slice(0, 600), ROOM);
  const { marks, lines } = layOut(ruler, font, trace, interlinear);
  const step = interlinear ? LINES.interlinear : LINES.plain;
  const height = EDGE + question.length * 30 + lines * step + BELOW + LANES + 60;
  const { canvas, paint } = canvasOf(height, colour("surface"));
  const write = (look, ink, text, y) => {
    paint.font = font(look);
    paint.fillStyle = colour(ink);
    paint.fillText(text, EDGE, y);
  };

  let y = EDGE + 18;
  for (const line of question) {
    write("600 22px", "ink", line, y);
    y += 30;
  }
  write("14px", "muted", SpecKD.told(`${drawnGate(knobs)}   ${drawnLoss(gated, knobs.divergence)}`), y);
  y += step + 2;
  paintMarks(paint, { colour, font }, marks, { trace, gated, left: EDGE, top: y, step });
  y += (lines - 1) * step + BELOW;
  lanes.paintInto(paint, { left: EDGE, top: y, width: ROOM, height: LANES });
  paint.textBaseline = "alphabetic";
  paint.textAlign = "left";
  write("13px", "muted", SpecKD.told(SpecKD.madeBy(trace.config)).slice(0, 180), height - 16);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
};

function wrap(paint, font, text, width) {
  paint.font = font;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = lines[lines.length - 1] ? lines[lines.length - 1] + " " + word : word;
    if (paint.measureText(longer).width <= width || !lines[lines.length - 1]) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.slice(0, 4);
}
function layOut(paint, font, trace, interlinear, room = ROOM) {
  const widthOf = (look, text) => {
    paint.font = font(look);
    return paint.measureText(text).width;
  };
  const space = widthOf("19px", " ");
  const marks = [];
  let x = 0;
  let line = 0;
  trace.tokens.forEach((token, t) => {
    const leading = /^ (?=\S)/.test(token);
    const text = SpecKD.shown(token);
    const instead = interlinear ? SpecKD.proposedInstead(trace, t) : null;
    const proposed = instead === null ? null : SpecKD.shown(instead).slice(0, LONGEST);
    const wide = Math.max(widthOf("19px", text), proposed === null ? 0 : widthOf(ABOVE, proposed)) + 4;
    if (leading) x += space;
    if (x + wide > room && x > 0) {
      x = 0;
      line += 1;
    }
    marks.push({ t, x, line, text, proposed, width: wide - 3 });
    x += wide;
    if (token.includes("\n") && t + 1 < trace.tokens.length) {
      x = 0;
      line += 1;
    }
  });
  return { marks, lines: line + 1 };
}
