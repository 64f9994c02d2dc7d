/* The picture as a PNG, drawn here: question, gate, strip and lanes. Nothing leaves the browser. */
const WIDTH = 1200;
const SCALE = 2;
const EDGE = 32;

SpecKD.toPng = async function (picture, lanes, host) {
  const { trace, gated, knobs } = picture.state;
  const style = getComputedStyle(host);
  const colour = (name) => style.getPropertyValue("--sk-" + name).trim();
  const family = style.fontFamily;
  const image = await lanes.toImage({ format: "png", width: WIDTH - 2 * EDGE, height: 300, scale: SCALE });
  const heatmap = await load(image);

  const probe = document.createElement("canvas").getContext("2d");
  const question = wrap(probe, `600 22px ${family}`, SpecKD.visible(trace.prompt).slice(0, 600), WIDTH - 2 * EDGE);
  const marks = layOut(probe, `19px ${family}`, trace, WIDTH - 2 * EDGE);
  const height = EDGE + question.length * 30 + 34 + (marks.lines + 1) * 38 + 10 + 300 + 40;
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * SCALE;
  canvas.height = height * SCALE;
  const paint = canvas.getContext("2d");
  paint.scale(SCALE, SCALE);
  paint.fillStyle = colour("surface");
  paint.fillRect(0, 0, WIDTH, height);
  paint.textBaseline = "alphabetic";

  let y = EDGE + 18;
  paint.fillStyle = colour("ink");
  paint.font = `600 22px ${family}`;
  for (const line of question) {
    paint.fillText(line, EDGE, y);
    y += 30;
  }
  paint.font = `14px ${family}`;
  paint.fillStyle = colour("muted");
  const kind = SpecKD.DIVERGENCES[knobs.divergence];
  const unit = kind.unit ? " nats" : "";
  const gate = knobs.gate === "none"
    ? "all open"
    : `${SpecKD.GATES[knobs.gate].label}, k = ${knobs.k}, β = ${SpecKD.number(knobs.beta)}`;
  paint.fillText(
    `${gate}   TAR ${SpecKD.percent(gated.tar)}   ${kind.label}: plain ${SpecKD.number(gated.plain)}${unit}, gated ${
      SpecKD.number(gated.gated)
    }${unit}`,
    EDGE,
    y,
  );
  y += 40;
  const [red, green, blue] = colour("teacher-rgb").split(",").map(Number);
  for (const mark of marks.marks) {
    const x = EDGE + mark.x;
    const base = y + mark.line * 38;
    const accepted = gated.accepted[mark.t];
    const chance = Math.max(0, Math.min(1, SpecKD.acceptanceOfOneDraw(trace, mark.t)));
    if (!accepted) {
      paint.fillStyle = colour("hatch-ground");
      paint.fillRect(x - 1, base - 19, mark.width + 2, 26);
      paint.save();
      paint.beginPath();
      paint.rect(x - 1, base - 19, mark.width + 2, 26);
      paint.clip();
      paint.strokeStyle = colour("hatch");
      paint.beginPath();
      for (let step = -26; step < mark.width + 26; step += 5) {
        paint.moveTo(x + step, base + 7);
        paint.lineTo(x + step + 26, base - 19);
      }
      paint.stroke();
      paint.restore();
    }
    paint.fillStyle = `rgba(${red}, ${green}, ${blue}, ${0.34 * chance})`;
    paint.fillRect(x - 1, base - 19, mark.width + 2, 26);
    if (accepted) {
      paint.fillStyle = colour("teacher");
      paint.fillRect(x - 1, base + 5, mark.width + 2, 2.5);
    } else {
      paint.setLineDash([4, 3]);
      paint.strokeStyle = colour("strong-rule");
      paint.strokeRect(x - 1, base - 19, mark.width + 2, 26);
      paint.setLineDash([]);
    }
    paint.fillStyle = colour("ink");
    paint.font = `19px ${family}`;
    paint.fillText(mark.text, x, base);
  }
  y += marks.lines * 38 + 24;
  paint.drawImage(heatmap, EDGE, y, WIDTH - 2 * EDGE, 300);
  paint.font = `13px ${family}`;
  paint.fillStyle = colour("muted");
  paint.fillText(SpecKD.madeBy(trace.config).slice(0, 180), EDGE, height - 16);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
};

function load(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("The heatmap could not be drawn as an image."));
    image.src = source;
  });
}
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
function layOut(paint, font, trace, width) {
  paint.font = font;
  const space = paint.measureText(" ").width;
  const marks = [];
  let x = 0;
  let line = 0;
  trace.tokens.forEach((token, t) => {
    const leading = /^ (?=\S)/.test(token);
    const text = SpecKD.shown(token);
    const wide = paint.measureText(text).width + 4;
    if (leading) x += space;
    if (x + wide > width && x > 0) {
      x = 0;
      line += 1;
    }
    marks.push({ t, x, line, text, width: wide - 3 });
    x += wide;
    if (token.includes("\n") && t + 1 < trace.tokens.length) {
      x = 0;
      line += 1;
    }
  });
  return { marks, lines: line + 1 };
}
