/* Below the probe's heatmap: what its looked-at cell says, in words; and the strip of the step that is looked at. */

const { el, number, percent, ordinal, format } = SpecKD;
const REST = 400; // milliseconds without a move until the strip's spoken labels follow
const HINT = "Point at a cell, or walk with the arrow keys; click a row to read its strip.";

/* One cell as a sentence to read and one to hear. */
class ProbeReadout {
  constructor() {
    this.element = el("p", { class: "sk-probe-readout sk-small" });
    this.spoken = el("span", { class: "sk-hidden", "aria-live": "polite" });
  }
  words(row, t, { kind, k }) {
    const threshold = row[SpecKD.GATES[kind].column][t];
    const drawn = threshold > SpecKD.K_MAX
      ? `none of ${SpecKD.K_MAX} draws passes`
      : `its ${ordinal(threshold)} draw passes`;
    const told = kind === "topk" ? `the teacher’s ${ordinal(threshold)}` : drawn;
    return { told, verdict: threshold <= k ? "accepted" : "rejected" };
  }
  /* Of token t at that row of a probe; a hint where there is none. */
  show(row, t, tokens, knobs) {
    const quiet = (text) => el("span", { class: "sk-muted", text });
    const quote = (text) => el("bdi", { class: "sk-quote", text: SpecKD.shown(text) });
    if (!row || t < 0) {
      this.element.replaceChildren(quiet(HINT));
      return;
    }
    const { told, verdict } = this.words(row, t, knobs);
    const chance = number(1 - row.tvd[t], 2);
    const divergence = format(row.divergence[t], "nats", { unit: true });
    this.element.replaceChildren(
      quiet(`step ${row.step}, token ${t + 1} `),
      quote(tokens[t]),
      quiet(" student proposes "),
      quote(row.proposal[t] ?? ""),
      `, ${told}: `,
      el("b", { text: `${verdict === "accepted" ? "✓" : "✕"} ${verdict}` }),
      quiet(` at k = ${knobs.k} · 1 − TVD ${chance} · divergence ${divergence}`),
    );
  }
  speak(row, t, tokens, knobs) {
    if (!row || t < 0) return;
    const { told, verdict } = this.words(row, t, knobs);
    const [token, proposal] = [tokens[t], row.proposal[t] ?? ""].map(SpecKD.spoken);
    const where = `Step ${row.step}, token ${t + 1}, ${token}`;
    this.spoken.textContent = SpecKD.told(`${where}. Proposal ${proposal}, ${told}: ${verdict} at k ${knobs.k}.`);
  }
}

/* The strip of one moment. While a scrubber moves only its fills change; what is spoken of them follows at rest.

   `now()` says what there is to show: {run, racer, row, tokens, accepted, rate, cursor}; row is null for nothing. */
class ProbeStrip {
  /** @param {{now: () => any, onHover: (t: number) => void, onPin: (t: number) => void}} options */
  constructor({ now, onHover, onPin }) {
    this.now = now;
    this.says = el("div", { class: "sk-probe-moment" });
    this.box = el("div", { class: "sk-probe-strip" });
    this.strip = SpecKD.createStrip(this.box, { onHover, onPin, label: "Probe at this step" });
    this.shown = ""; // what the strip shows
    this.small = null; // its trace
    this.resting = 0;
  }
  setCursor(t) {
    this.strip.setCursor(t);
  }
  show() {
    const { run, racer, row, tokens, accepted, rate } = this.now();
    this.box.hidden = !row;
    if (!row) {
      this.says.replaceChildren();
      this.shown = "";
      clearTimeout(this.resting);
      return;
    }
    const key = `${run.key}/${racer.index}/${row.step}`;
    const sameWords = this.shown.startsWith(`${run.key}/`) && this.small;
    if (key !== this.shown) {
      clearTimeout(this.resting);
      this.shown = key;
      if (sameWords) this.refill(row, tokens);
      else this.rewrite(row, tokens);
    }
    this.strip.element.dataset.step = String(row.step);
    this.strip.paint({ accepted });
    this.says.replaceChildren(
      SpecKD.racerMark(racer.index),
      el("b", { text: `${racer.letter} at step ${row.step}` }),
      el("span", { class: "sk-muted", text: "TAR " }),
      el("b", { text: percent(rate) }),
    );
  }
  refill(row, tokens) {
    this.small.divergence.tvd = row.tvd;
    tokens.forEach((_, t) => {
      const chance = Math.max(0, Math.min(1, 1 - row.tvd[t]));
      this.strip.token(t).style.setProperty("--a", chance.toFixed(3));
    });
    this.resting = setTimeout(() => {
      this.shown = "";
      this.show();
      this.strip.setCursor(this.now().cursor);
    }, REST);
  }
  rewrite(row, tokens) {
    const { strip } = this;
    const active = /** @type {HTMLElement} */ (document.activeElement);
    const focused = this.box.contains(active) ? Number(active.dataset.t) : -1;
    const scrolled = strip.element.scrollTop;
    this.small = SpecKD.smallTrace({ tokens, ...row });
    strip.setTrace(this.small);
    strip.element.scrollTop = scrolled;
    if (focused >= 0 && strip.token(focused)) strip.token(focused).focus();
  }
  destroy() {
    clearTimeout(this.resting);
  }
}

SpecKD.createProbeReadout = () => new ProbeReadout();
SpecKD.createProbeStrip = (options) => new ProbeStrip(options);
