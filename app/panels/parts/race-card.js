/* A race painted on a canvas: its card to share, and the race as a short film made in this browser. */

const { tr, format, visible } = SpecKD;
const DASHES = [[], [7, 5]];
const HUES = ["student", "second"];
const FRAMES = 25; // a second
const FILM = 6000; // milliseconds from the first step to the last,
const REST = 2000; // and of the last picture
const NO_FILMS = SpecKD.tr("This browser makes no films: the card shows the last picture.");
const EMPTY = 1000; // bytes
const KINDS = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"];
const finite = (x) => x !== null && x !== undefined && Number.isFinite(x);

/* Two or three round numbers between two ends. */
function roundTicks(low, high) {
  const rough = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((size) => size >= rough) || rough;
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-9; x += step) found.push(x);
  return found;
}

/* One quantity of both racers up to a step: lines of training, rings of the held-out figures. */
function paintCurve(pen, { left, top, width, height }, look, { run, moment, quantity, title, kind }) {
  const all = run.racers.flatMap((racer) => [...racer.rows, ...racer.heldOut]).map((one) => one[quantity]);
  const known = all.filter(finite);
  if (!known.length) return;
  const pad = 0.08 * (Math.max(...known) - Math.min(...known) || 0.1);
  const [low, high] = [Math.min(...known) - pad, Math.max(...known) + pad];
  const [x0, x1, y0, y1] = [left + 52, left + width - 26, top + 30, top + height - 26];
  const x = (step) => x0 + (step / Math.max(1, run.steps)) * (x1 - x0);
  const y = (value) => y1 - ((value - low) / (high - low)) * (y1 - y0);
  const write = (font, ink, text, at, base, align = "left") => {
    [pen.font, pen.fillStyle, pen.textAlign] = [look.font(font), look.colour(ink), /** @type {any} */ (align)];
    pen.fillText(text, at, base);
  };
  write("600 17px", "ink", title, left, top + 14);
  pen.lineWidth = 1;
  for (const value of roundTicks(low, high)) {
    pen.strokeStyle = look.colour("rule");
    pen.beginPath();
    pen.moveTo(x0, y(value));
    pen.lineTo(x1, y(value));
    pen.stroke();
    write(
      "14px",
      "muted",
      kind === "share" ? SpecKD.percent(value) : SpecKD.figures(value),
      x0 - 8,
      y(value) + 5,
      "right",
    );
  }
  for (const step of roundTicks(0, run.steps).filter(Number.isInteger)) {
    write("14px", "muted", String(step), x(step), y1 + 20, "center");
  }
  run.racers.forEach((racer, i) => paintRacer(pen, look, { racer, i, quantity, moment, x, y }));
}
function paintRacer(pen, look, { racer, i, quantity, moment, x, y }) {
  const points = racer.rows.filter((row) => row.step <= moment && finite(row[quantity]));
  pen.strokeStyle = pen.fillStyle = look.colour(HUES[i]);
  pen.lineWidth = 3;
  pen.setLineDash(DASHES[i]);
  pen.beginPath();
  points.forEach((
    row,
    n,
  ) => (n ? pen.lineTo(x(row.step), y(row[quantity])) : pen.moveTo(x(row.step), y(row[quantity]))));
  pen.stroke();
  pen.setLineDash([]);
  for (const at of racer.heldOut) {
    if (at.step > moment || !finite(at[quantity])) continue;
    pen.beginPath();
    pen.arc(x(at.step), y(at[quantity]), 5.5, 0, 7);
    pen.stroke();
  }
  const last = points.at(-1);
  if (!last) return;
  [pen.font, pen.textAlign] = [look.font("700 17px"), "left"];
  pen.fillText(racer.letter, x(last.step) + 7, y(last[quantity]) + 6);
}

/* What each racer's student says at that step, in up to three lines each. */
function paintSayings(pen, { left, top, width }, look, { run, moment }) {
  const half = (width - 40) / 2;
  run.racers.forEach((racer, i) => {
    const at = left + i * (half + 40);
    /** @type {any} */
    const now = SpecKD.lastAt(racer.sayings, moment);
    [pen.font, pen.fillStyle, pen.textAlign] = [look.font("700 17px"), look.colour(HUES[i]), "left"];
    pen.fillText(SpecKD.fittedText(pen, `${racer.letter}  ${visible(racer.name)}`, half), at, top);
    [pen.font, pen.fillStyle] = [look.font("17px"), look.colour("ink")];
    let line = "";
    let row = 0;
    for (const word of now ? visible(now.text).split(" ") : []) {
      if (pen.measureText(`${line} ${word}`).width > half && line) {
        pen.fillText(line, at, top + 27 + 23 * row++);
        line = "";
        if (row === 4) return;
      }
      line = line ? `${line} ${word}` : word;
    }
    pen.fillText(SpecKD.fittedText(pen, line, half), at, top + 27 + 23 * row);
  });
}

/* The whole picture of a race at a step, for a card. */
SpecKD.raceCardOf = function ({ run, moment, host }) {
  const { start } = run;
  const title = run.racers.map((racer) => racer.name).join(tr(" against "));
  const now = run.racers.map((racer) => SpecKD.lastAt(racer.heldOut, moment)).filter(Boolean);
  const figures = now.map((at, i) => `${run.racers[i].letter} ${format(at.divergence, "nats", { unit: true })}`);
  const legend = `${tr("Held-out divergence")}: ${figures.join(", ")}. ${tr("Lines: training; rings: held out.")}`;
  const detail = tr("{student} student, step {step} of {steps}", {
    student: start.student,
    step: moment,
    steps: run.steps,
  });
  const paint = (pen, place, look) => {
    const half = (place.width - 30) / 2;
    const said = run.racers.some((racer) => racer.sayings.length);
    const box = { ...place, width: half, height: place.height - (said ? 142 : 0) };
    const curve = { run, moment };
    const divergence = { ...curve, quantity: "divergence", title: tr("ungated divergence, nats"), kind: "nats" };
    const accepted = { ...curve, quantity: "tar", title: tr("accepted, share of tokens"), kind: "share" };
    paintCurve(pen, box, look, divergence);
    paintCurve(pen, { ...box, left: box.left + half + 30 }, look, accepted);
    if (said) paintSayings(pen, { ...place, top: box.top + box.height + 26 }, look, { run, moment });
  };
  return { host, title, detail, legend, paint };
};

/* The race from its first step to its last as a WebM. Throws where the browser makes no films. */
SpecKD.raceFilm = async function ({ run, host, onShare = (_x) => {} }) {
  const kind = globalThis.MediaRecorder && KINDS.find((one) => MediaRecorder.isTypeSupported(one));
  if (!kind) throw new Error(NO_FILMS);
  const canvas = document.createElement("canvas");
  const last = SpecKD.reachedStep(run);
  const paint = (moment) => SpecKD.paintCard(canvas, SpecKD.raceCardOf({ run, moment, host }));
  paint(0);
  const recorder = new MediaRecorder(canvas.captureStream(FRAMES), { mimeType: kind, videoBitsPerSecond: 2_500_000 });
  const pieces = [];
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const ended = new Promise((done) => {
    recorder.onstop = done;
  });
  recorder.start();
  const began = performance.now();
  await new Promise((done) => {
    const timer = setInterval(() => {
      const elapsed = performance.now() - began;
      paint(Math.min(last, Math.floor((elapsed / FILM) * last)));
      onShare(Math.min(1, elapsed / (FILM + REST)));
      if (elapsed < FILM + REST) return;
      clearInterval(timer);
      done(null);
    }, 1000 / FRAMES);
  });
  recorder.stop();
  await ended;
  const film = new Blob(pieces, { type: "video/webm" });
  if (film.size < EMPTY) throw new Error(NO_FILMS); // a recorder that saw no frame writes its head alone
  return film;
};
