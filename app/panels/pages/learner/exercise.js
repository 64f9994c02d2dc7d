/* Exercises: a prediction, then the answer. A form asks; Check tells whether it was right, why, and shows it. */

const { el, icon, tr } = SpecKD;

/* One of several. */
function choice(task, { name, box, build, answer, ask }) {
  const options = el("div", { class: "sk-learn-options" });
  task.options.forEach((option, value) => {
    const input = el("input", { type: "radio", name, value });
    options.append(el("label", { class: "sk-radio" }, input, el("span", {}, ...option.map(build))));
  });
  box.append(options);
  return () => {
    const chosen = /** @type {HTMLInputElement | null} */ (options.querySelector("input:checked"));
    if (!chosen) {
      ask(tr("Choose one first."));
      return;
    }
    options.querySelectorAll("label").forEach((label, i) => {
      label.classList.toggle("sk-learn-key", task.right.includes(i));
    });
    answer(task.right.includes(Number(chosen.value)), task.reason, tr("✕ Not so. "));
  };
}

/* Some things in an order, moved up and down with buttons. */
function ranking(task, { box, build, answer }) {
  const order = task.items.map((_, i) => i);
  const rows = el("ol", { class: "sk-learn-order" });
  function mover(at, way, text) {
    const button = el("button", {
      type: "button",
      class: "sk-button sk-quiet sk-learn-move",
      "data-way": way,
      disabled: at + way < 0 || at + way >= order.length,
      "aria-label": way < 0 ? tr("Move {item} up", { item: text }) : tr("Move {item} down", { item: text }),
    }, icon(way < 0 ? "M4 10l4-4 4 4" : "M4 6l4 4 4-4"));
    button.addEventListener("click", () => {
      [order[at], order[at + way]] = [order[at + way], order[at]];
      delete box.dataset.answered;
      draw();
      focus(at + way, way);
    });
    return button;
  }
  function draw() {
    rows.replaceChildren(...order.map((item, at) => {
      const words = el("span", { class: "sk-learn-item" }, ...task.items[item].map(build));
      return el("li", {}, words, mover(at, -1, words.textContent), mover(at, 1, words.textContent));
    }));
  }
  function focus(at, way) {
    /** @type {HTMLButtonElement} */
    const same = rows.children[at].querySelector(`[data-way="${way}"]`);
    /** @type {HTMLButtonElement} */
    const other = rows.children[at].querySelector("button:not([disabled])");
    (same.disabled ? other : same).focus();
  }
  draw();
  box.append(rows);
  return () => { // ties may stand either way
    const right = order.every((item, at) => task.values[item] === task.values[task.answer[at]]);
    answer(right, task.reason, tr("✕ Not in this order. "));
  };
}

/* `onAnswer(task, right, reveal)` hears every answer. */
SpecKD.createExercise = function (task, { id, build, onAnswer }) {
  const result = el("p", { class: "sk-learn-result", role: "status" });
  const predict = el(
    "legend",
    {},
    el("span", { class: "sk-learn-predict", text: tr("Predict ") }),
    ...task.ask.map(build),
  );
  const about = { "data-exercise": task.id, "data-form": task.form };
  const box = el("fieldset", { class: "sk-learn-exercise", ...about }, predict);
  const answer = (right, reason, wrong) => {
    box.dataset.answered = right ? "right" : "wrong";
    const verdict = el("b", { text: right ? tr("✓ Right. ") : wrong });
    result.replaceChildren(verdict, ...task.why.map(build), " ", ...reason.map(build));
    onAnswer(task, right, task.reveal || {});
  };
  const ask = (text) => result.replaceChildren(el("span", { text }));
  const make = task.form === "choice" ? choice : ranking;
  const check = el("button", { type: "button", class: "sk-button sk-learn-check", text: tr("Check") });
  check.addEventListener("click", make(task, { name: `${id}-${task.id}`, box, build, answer, ask }));
  box.append(el("div", { class: "sk-learn-verify" }, check, result));
  return box;
};
