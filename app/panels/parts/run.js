/* One job of a visitor at a time: asked for, told of, stopped. Every page that asks the server for work uses this. */

const POLL = 600; // milliseconds between two looks at the loading of the models
const SPOKEN = ["done", "stopped", "failed", "ready"];
const MOVING = ["waiting", "loading", "preparing", "training", "writing", "measuring"];

SpecKD.isMoving = (state) => MOVING.includes(state);

SpecKD.progressBar = (kind = "") =>
  SpecKD.el("div", { class: `sk-progress ${kind}`.trim(), "aria-hidden": "true" }, SpecKD.el("div", {}));

/* Says how it stands: a line of text, what a screen reader hears of its end, and the bar while it moves. */
SpecKD.createStatus = function ({ text, box = text, spoken = null, bar }) {
  const filling = /** @type {HTMLElement} */ (bar.firstElementChild);
  return function (state, said, share = null) {
    const words = SpecKD.told(said);
    text.textContent = words;
    box.dataset.state = state;
    if (spoken && SPOKEN.includes(state)) spoken.textContent = words;
    const moving = MOVING.includes(state);
    bar.classList.toggle("sk-moving", moving);
    bar.classList.toggle("sk-unknown", moving && share === null);
    filling.style.transform = `scaleX(${moving && share ? share : 0})`;
  };
};

/* The status as a line of the page's foot; the bar stands where the page wants it. */
SpecKD.createStatusLine = function (kind = "") {
  const { el } = SpecKD;
  const text = el("span", { class: "sk-status-text" });
  const spoken = el("span", { class: "sk-hidden", role: "status" });
  const element = el("div", { class: "sk-status" }, text, spoken);
  const bar = SpecKD.progressBar(kind);
  return { element, bar, say: SpecKD.createStatus({ text, box: element, spoken, bar }) };
};

const freshId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/* The button that starts and stops, and the job behind it. While a job stops the button is busy; after `patience`
   milliseconds without the server's last word onImpatient decides what becomes of the page. */
SpecKD.createAsking = function (
  { button, label, stopping = "Stopping.", patience, server, trigger, say, onImpatient },
) {
  let current = null;

  function start(data, facts = {}) {
    if (current) clearTimeout(current.timer);
    current = { id: freshId(), waiting: true, stopped: false, timer: 0, ...facts };
    button.textContent = SpecKD.tr("Stop");
    button.classList.add("sk-stop");
    say("waiting", "Asking.");
    trigger("run", { run: current.id, ...data });
    return current;
  }
  function stop() {
    const mine = current;
    if (mine.stopped) return;
    mine.stopped = true;
    button.textContent = SpecKD.tr("Stopping");
    button.setAttribute("aria-busy", "true");
    button.setAttribute("aria-disabled", "true");
    say("waiting", stopping);
    server.stop(mine.id).catch(() => {});
    mine.timer = setTimeout(() => {
      if (current === mine && mine.waiting) onImpatient(mine);
    }, patience);
  }
  /* The button is for starting again. What the server still says of the job is heard until it is forgotten. */
  function release() {
    clearTimeout(current.timer);
    current.waiting = false;
    button.textContent = SpecKD.told(label);
    button.classList.remove("sk-stop");
    for (const name of ["aria-busy", "aria-disabled"]) button.removeAttribute(name);
  }
  function forget() {
    release();
    current = null;
  }
  return {
    start,
    stop,
    release,
    forget,
    busy: () => current !== null && current.waiting,
    current: () => current,
    /* The job that an update speaks of; null for the last words of one that nobody waits for. */
    heard: (update) => (current && update.run === current.id ? current : null),
  };
};

/* One of the recordings that come with the page. */
SpecKD.askRecorded = function ({ server, say }, name, use) {
  server.recorded(name).then((answer) => {
    if (answer && !answer.error) use(answer);
    else say("failed", answer ? answer.error : SpecKD.NO_ANSWER);
  }, () => say("failed", SpecKD.NO_ANSWER));
};

/* Says how the loading of the models stands until it has ended, unless the visitor has something else under way. */
SpecKD.watchModels = function ({ server, say, quiet, onLoaded = () => {} }) {
  const look = () => {
    server.status().then((now) => {
      const loading = MOVING.includes(now.state);
      if (!quiet()) say(loading || now.state === "failed" ? now.state : "ready", now.text, loading ? now.share : null);
      if (loading) setTimeout(look, POLL);
      else onLoaded();
    }, () => setTimeout(look, 4 * POLL));
  };
  look();
};
SpecKD.NO_ANSWER = "The server did not answer: is it still running?";
