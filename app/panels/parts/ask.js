/* The line on top of a page that answers a question: the field, examples, Run; and the line below it that says what is
   on screen and how it was made. */

/* Enter asks; with Shift it begins a new line. The field grows while it is written in.

   onText(text) hears every change, onRecorded(name) a recorded answer that was chosen. */
SpecKD.createAskLine = function ({ recorded = [], examples, busy, onText, onRecorded = null, onRun, onStop }) {
  const { el, tr } = SpecKD;
  const question = el("textarea", {
    class: "sk-ask-text",
    "data-field": "prompt",
    rows: 1,
    "aria-label": tr("Question"),
    placeholder: tr("Ask a question"),
    spellcheck: "false",
    dir: "auto",
    autocomplete: "off",
  });
  const examplesButton = SpecKD.iconButton({ "aria-label": tr("Examples"), title: tr("Examples") }, "M4 6l4 4 4-4");
  const run = el("button", { type: "submit", class: "sk-button sk-primary sk-run", text: tr("Run") });
  const box = el("div", { class: "sk-ask-box" }, question, examplesButton);
  const element = el("form", { class: "sk-ask", novalidate: true }, box, run);

  function grow() {
    question.style.height = "";
    if (document.activeElement === question) question.style.height = Math.min(150, question.scrollHeight + 2) + "px";
  }
  question.addEventListener("input", () => {
    onText(question.value);
    grow();
  });
  question.addEventListener("focus", grow);
  question.addEventListener("blur", () => {
    question.style.height = "";
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!busy()) onRun();
  });
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy()) onStop();
    else onRun();
  });

  const menu = SpecKD.popup(examplesButton, "sk-popup-examples");
  if (recorded.length) menu.title("Recorded, on screen at once");
  for (const one of recorded) menu.add(one.config.prompt, one.label, () => busy() || onRecorded(one.name));
  menu.title("Questions to run");
  for (const text of examples) {
    menu.add(text, "", () => {
      question.value = text;
      question.focus();
      onText(text);
    });
  }
  return { element, question, run };
};

/* What is on screen: a chip that says where it comes from, what was asked, and who made it. */
SpecKD.createCaption = function () {
  const { el, visible } = SpecKD;
  const chip = el("span", { class: "sk-chip sk-chip-recorded" });
  const line = el("span", { class: "sk-caption-text" });
  /** @param {{word: string, live?: boolean, question: string, made: string, detail?: string}} says */
  function show({ word, live = word === "live", question, made, detail = "" }) {
    chip.textContent = SpecKD.told(word);
    chip.classList.toggle("sk-chip-live", live);
    line.replaceChildren(
      el("bdi", { class: "sk-caption-question", text: visible(question) }),
      el("span", { class: "sk-muted", text: visible(made) }),
    );
    line.title = detail;
  }
  function clear() {
    chip.textContent = "";
    line.replaceChildren();
  }
  return { chip, line, show, clear };
};
