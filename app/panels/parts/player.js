/* Scrub and play: a button, a slider over the steps of a run, and the step in words. What a step shows is the page's. */

const LONGEST_FRAME = 120; // milliseconds: a browser that is busy shows every step too
const PLAY = "M5 3l7.5 5L5 13z";
const PAUSE = "M5.5 3.5v9M10.5 3.5v9";
let serial = 0;

/* `duration(last)` is how long steps 0 to last take; `reached()` the last step there is; `onStep` is told of every
   step that the player or a hand moves to; `onHalt` hears that a playing run stands; `ready` waits for the pictures,
   and where `still` holds nothing moves: Play goes straight to the end. */
SpecKD.createPlayer = function (
  { quiet = false, duration, reached, onStep, onHalt = () => {}, ready = () => Promise.resolve(), still = () => false },
) {
  const { el } = SpecKD;
  const id = `sk-player-${++serial}`;
  const button = el("button", {
    type: "button",
    class: `sk-button ${quiet ? "sk-quiet " : ""}sk-icon-button sk-play`,
  });
  const scrubber = el("input", {
    type: "range",
    class: "sk-slider sk-scrubber",
    id,
    min: 0,
    max: 1,
    step: 1,
    value: 0,
    "aria-label": "Step of the run",
  });
  const words = el("output", { class: quiet ? "sk-scrubber-step" : "sk-scrubber-step sk-small", for: id });
  let play = null; // {frame} while it plays
  let at = 0;

  function show({ moment, last, nothing = false, locked = false }) {
    at = moment;
    scrubber.max = String(last);
    scrubber.value = String(moment);
    scrubber.style.setProperty("--at", `${(100 * moment) / Math.max(1, last)}%`);
    scrubber.setAttribute("aria-valuetext", `step ${moment} of ${last}`);
    scrubber.disabled = nothing;
    words.textContent = `step ${moment} of ${nothing ? 0 : last}`;
    button.disabled = nothing || locked;
    button.classList.toggle("sk-gone", locked);
    showButton();
  }
  function showButton() {
    const word = play ? "Pause the run" : "Play the run";
    if (button.getAttribute("aria-label") === word) return;
    button.setAttribute("aria-label", word);
    button.title = word;
    button.replaceChildren(SpecKD.icon(play ? PAUSE : PLAY));
  }
  /* From the very first on it plays, so that nothing flashes up that is to come; then it begins. */
  function announce() {
    play = { frame: 0 };
  }
  function halt() {
    if (!play) return;
    cancelAnimationFrame(play.frame);
    play = null;
    showButton();
    onHalt();
  }
  function begin() {
    const last = reached();
    if (!last) return;
    halt();
    if (still()) {
      onStep(last);
      return;
    }
    const from = at >= last ? 0 : at;
    const mine = (play = { frame: 0 });
    const whole = duration(last);
    let elapsed = 0;
    let before = null;
    const tick = (now) => {
      if (play !== mine) return;
      if (before !== null) elapsed += Math.min(now - before, LONGEST_FRAME);
      before = now;
      const step = Math.min(last, from + Math.floor((elapsed / whole) * last));
      if (step !== at) onStep(step);
      if (step < last) mine.frame = requestAnimationFrame(tick);
      else halt();
    };
    showButton();
    onStep(from);
    ready().then(() => {
      if (play === mine) mine.frame = requestAnimationFrame(tick);
    });
  }
  scrubber.addEventListener("input", () => {
    const step = Number(scrubber.value);
    halt();
    onStep(step);
  });
  button.addEventListener("click", () => (play ? halt() : begin()));
  showButton();
  return {
    show,
    announce,
    begin,
    halt,
    playing: () => play !== null,
    nodes: [button, scrubber, words],
    button,
    scrubber,
  };
};
