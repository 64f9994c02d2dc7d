/* A card to share, 1200 x 630 as most places show it: name, title, a picture, its legend, the address. Every tab gives
   the picture; it is painted here, in this browser, and nothing leaves it. */

const { el, tr } = SpecKD;

/* What happens here, in words of everyday: over the first picture, and on every card. */
SpecKD.LEAD = "A small model guesses each next word; a large one checks the guess; only checked guesses teach.";

const WIDE = 1200;
const HIGH = 630;
const EDGE = 40;
const PICTURE = { left: EDGE, top: 140, width: WIDE - 2 * EDGE, height: 420 };

/* Colours and fonts of the page around a node. */
SpecKD.lookOf = function (host) {
  const style = getComputedStyle(host);
  return {
    colour: (name) => style.getPropertyValue("--sk-" + name).trim(),
    font: (size) => `${size} ${style.fontFamily}`,
  };
};

/* A line cut to the room that there is. */
function fitted(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  const letters = Array.from(text.slice(0, 300));
  while (letters.length > 1 && pen.measureText(letters.join("") + "…").width > room) letters.pop();
  return letters.join("") + "…";
}
SpecKD.fittedText = fitted;

/* `paint(pen, place, look)` draws the picture into its place; `legend` is one line of text. */
SpecKD.paintCard = function (canvas, { host, title, detail = "", legend, paint }) {
  [canvas.width, canvas.height] = [WIDE, HIGH];
  const pen = canvas.getContext("2d");
  const look = SpecKD.lookOf(host);
  const write = (font, ink, text, x, y, align = "left") => {
    pen.font = look.font(font);
    pen.fillStyle = look.colour(ink);
    pen.textAlign = /** @type {CanvasTextAlign} */ (align);
    pen.textBaseline = "alphabetic";
    pen.fillText(text, x, y);
  };
  pen.fillStyle = look.colour("surface");
  pen.fillRect(0, 0, WIDE, HIGH);
  write("700 30px", "ink", "SpecKD Lab", EDGE, 54);
  const name = pen.measureText("SpecKD Lab").width;
  pen.font = look.font("17px");
  const lead = fitted(pen, tr(SpecKD.LEAD), WIDE - 2 * EDGE - name - 24);
  write("17px", "muted", lead, EDGE + name + 24, 53);
  pen.font = look.font("600 26px");
  write("600 26px", "ink", fitted(pen, SpecKD.visible(title), PICTURE.width), EDGE, 98);
  pen.font = look.font("16px");
  if (detail) write("16px", "muted", fitted(pen, SpecKD.visible(detail), PICTURE.width), EDGE, 122);
  pen.save();
  paint(pen, PICTURE, look);
  pen.restore();
  const leads = location.protocol !== "file:" && !/^(localhost|127\.|\[::1\])/.test(location.host);
  const address = leads ? location.host + location.pathname.replace(/\/$/, "") : ""; // one's own machine is no address
  write("16px", "muted", address, WIDE - EDGE, HIGH - 22, "right");
  const room = PICTURE.width - pen.measureText(address).width - 30;
  pen.font = look.font("16px");
  write("16px", "ink", fitted(pen, legend, room), EDGE, HIGH - 22);
  return canvas;
};

/* The card as a PNG. */
SpecKD.shareCard = (options) =>
  new Promise((resolve, reject) => {
    const done = (blob) => (blob ? resolve(blob) : reject(new Error(tr("This browser could not make the picture."))));
    SpecKD.paintCard(el("canvas", {}), options).toBlob(done, "image/png");
  });

/* The card of one text under a gate; without lanes more of the text. */
SpecKD.inspectCard = function ({ picture, lanes, host, interlinear }) {
  const { trace, gated, knobs } = picture.state;
  const gate = knobs.gate === "none"
    ? SpecKD.GATES.none.label
    : `${SpecKD.GATES[knobs.gate].label}, k = ${knobs.k}, β = ${SpecKD.number(knobs.beta)}`;
  const legend = tr("{gate}: underlined accepted, struck and hatched rejected. TAR {tar}", {
    gate,
    tar: SpecKD.percent(gated.tar),
  });
  const paint = (pen, place, look) => {
    const { left, top, width } = place;
    const most = (interlinear ? 3 : 5) * (lanes ? 1 : 2);
    const strip = { trace, gated, left, top, width, most, interlinear };
    const { height } = SpecKD.paintStrip(pen, look, strip);
    if (!lanes) return;
    const from = top + height + 14;
    lanes.paintInto(pen, { left, top: from, width, height: top + place.height - from });
  };
  return SpecKD.shareCard({ host, title: trace.prompt, detail: SpecKD.madeBy(trace.config), legend, paint });
};
