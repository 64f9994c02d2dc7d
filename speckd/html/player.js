/* Scrub and play: a button, a slider over the steps of a run, and the step in words. What it shows is the page's. */

const { el } = SpecKD;
const LONGEST_FRAME = 120; // milliseconds: a browser that is busy shows every step too
const PLAY = "M5 3l7.5 5L5 13z";
const PAUSE = "M5.5 3.5v9M10.5 3.5v9";
let serial = 0;

/* `duration(last)` is how long steps 0 to last take; `reached()` the last step there is; `onStep` is told of every
   step that the player or a hand moves to; `onHalt` hears that a playing run stands; `ready` waits for the pictures,
   and where `still` holds nothing moves: Play goes straight to the end. `say(moment, last)` names a step. */
class RunPlayer {
  /** @param {Parameters<SpecKDParts["createPlayer"]>[0]} options */
  constructor(options) {
    const say = (moment, last) => `step ${moment} of ${last}`;
    this.options = { onHalt: () => {}, ready: () => Promise.resolve(), still: () => false, say, ...options };
    this.play = null; // {frame} while it plays
    this.at = 0;
    const id = `sk-player-${++serial}`;
    const { quiet } = options;
    const kind = `sk-button ${quiet ? "sk-quiet " : ""}sk-icon-button sk-play`;
    this.button = el("button", { type: "button", class: kind });
    const about = { class: "sk-slider sk-scrubber", id, "aria-label": "Step of the run" };
    this.scrubber = el("input", { type: "range", min: 0, max: 1, step: 1, value: 0, ...about });
    this.words = el("output", { class: quiet ? "sk-scrubber-step" : "sk-scrubber-step sk-small", for: id });
    this.nodes = [this.button, this.scrubber, this.words];
    this.scrubber.addEventListener("input", () => {
      const step = Number(this.scrubber.value);
      this.halt();
      this.options.onStep(step);
    });
    this.button.addEventListener("click", () => (this.play ? this.halt() : this.begin()));
    this.showButton();
  }

  show({ moment, last, nothing = false, locked = false }) {
    const { scrubber, button, words } = this;
    this.at = moment;
    scrubber.max = String(last);
    scrubber.value = String(moment);
    scrubber.style.setProperty("--at", `${(100 * moment) / Math.max(1, last)}%`);
    const told = SpecKD.told(this.options.say(moment, nothing ? 0 : last));
    scrubber.setAttribute("aria-valuetext", told);
    scrubber.disabled = nothing;
    words.textContent = told;
    button.disabled = nothing || locked;
    button.classList.toggle("sk-gone", locked);
    this.showButton();
  }
  showButton() {
    const word = SpecKD.tr(this.play ? "Pause the run" : "Play the run");
    if (this.button.getAttribute("aria-label") === word) return;
    this.button.setAttribute("aria-label", word);
    this.button.title = word;
    this.button.replaceChildren(SpecKD.icon(this.play ? PAUSE : PLAY));
  }

  playing() {
    return this.play !== null;
  }
  /* From the very first on it plays, so that nothing flashes up that is to come; then it begins. */
  announce() {
    this.play = { frame: 0 };
  }
  halt() {
    if (!this.play) return;
    cancelAnimationFrame(this.play.frame);
    this.play = null;
    this.showButton();
    this.options.onHalt();
  }
  begin() {
    const { reached, still, onStep, ready } = this.options;
    const last = reached();
    if (!last) return;
    this.halt();
    if (still()) {
      onStep(last);
      return;
    }
    const from = this.at >= last ? 0 : this.at;
    const mine = (this.play = { frame: 0 });
    this.showButton();
    onStep(from);
    ready().then(() => {
      if (this.play === mine) this.run(mine, from, last);
    });
  }
  run(mine, from, last) {
    const { duration, onStep } = this.options;
    const whole = duration(last);
    let elapsed = 0;
    let before = null;
    const tick = (now) => {
      if (this.play !== mine) return;
      if (before !== null) elapsed += Math.min(now - before, LONGEST_FRAME);
      before = now;
      const step = Math.min(last, from + Math.floor((elapsed / whole) * last));
      if (step !== this.at) onStep(step);
      if (step < last) mine.frame = requestAnimationFrame(tick);
      else this.halt();
    };
    mine.frame = requestAnimationFrame(tick);
  }
}

SpecKD.createPlayer = (options) => new RunPlayer(options);
