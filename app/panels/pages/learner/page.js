/* The Learn page: a lesson's words on one side, on the other the very parts of Inspect and Distill, set to what the
   words speak of. Words, numbers and answer keys come from the server (app/lessons); here they become nodes, never
   markup. */

const { el, icon, tr } = SpecKD;
const narrow = () => matchMedia("(max-width: 900px)").matches;
const TURNS = { ArrowRight: 1, n: 1, N: 1, ArrowLeft: -1, p: -1, P: -1, PageDown: 1, PageUp: -1 };
const ELSEWHERE = "input, select, textarea, [role=listbox], canvas"; // where keys mean something else
let serial = 0;

const quietButton = (kind, more) =>
  el("button", { type: "button", class: `sk-button sk-quiet ${kind}`.trim(), ...more });
const plainText = (parts) => parts.map((part) => (typeof part === "string" ? part : part.text || "")).join("");

class LearnPage {
  constructor(root, options) {
    this.root = root;
    this.language = options.languages.find((one) => one.code === SpecKD.language.code) || options.languages[0];
    this.lessons = this.language.lessons;
    this.glossary = SpecKD.glossary = this.language.glossary;
    this.id = `sk-learner-${++serial}`;
    this.address = serial === 1 ? SpecKD.address : null; // one Learn owns the address
    this.here = null; // {lesson, index}: what is open; the lesson is the filled one
    this.ticket = 0; // the newest wish; an answer to an older one is not shown
    this.readOn = () => {}; // shows what follows the step's question
    this.progress = SpecKD.createProgress();
    this.app = el("div", { class: "sk-learn", lang: this.language.code, dir: this.language.direction });
    this.stage = SpecKD.createLessonStage({
      plotly: options.plotly,
      charts: options.charts,
      caption: (word, live, question, made, detail) =>
        this.caption.show({ word, live, question, made, detail: SpecKD.told(detail) }),
      onMoved: () => this.tellMoved(),
    });
    this.text = SpecKD.createLessonText({
      id: this.id,
      glossary: this.glossary,
      frame: this.app,
      open: (lesson, step) => this.open(lesson, step),
      point: (name) => this.stage.point(this.live, [name], { scroll: true, only: true }),
      exercise: (task) => this.makeExercise(task),
      outcome: (node) => this.makeOutcome(node),
    });
    this.own = SpecKD.createOwnSentence({ id: this.id, options, onChange: () => this.reopen() });
    this.material = SpecKD.createLessonMaterial(options.server, this.own, {
      language: this.language.code,
      draw: () => this.progress.draw(),
    });
    this.makeReading();
    this.list = SpecKD.createLessonList({ page: this, button: this.listButton });
    this.makeLive();
    this.app.append(this.makeFrame(), this.live, this.spoken, this.text.tip);
    root.append(this.app);
    this.listen();
    this.begin();
  }

  /* --- the frame ----------------------------------------------------------------------------------------------- */

  makeReading() {
    const lines = icon("M2 4h12M2 8h12M2 12h12");
    const about = { "aria-expanded": "false", "aria-controls": `${this.id}-list` };
    this.listButton = quietButton("sk-learn-list-button", about);
    this.listButton.append(lines, el("span", { text: tr("Lessons") }));
    this.score = el("span", { class: "sk-learn-score sk-small sk-muted" });
    this.kicker = el("h1", { class: "sk-learn-kicker" });
    this.heading = el("h2", { class: "sk-learn-heading", tabindex: "-1" });
    this.body = el("div", { class: "sk-learn-body" });
    const region = { tabindex: "0", role: "region", "aria-label": tr("Lesson text") };
    this.page = el("div", { class: "sk-learn-page", ...region }, this.kicker, this.heading, this.body);
    this.previous = el("button", { type: "button", class: "sk-button sk-learn-previous", text: tr("Back") });
    this.dots = el("ol", { class: "sk-learn-dots" });
    this.next = el("button", { type: "button", class: "sk-button sk-primary sk-learn-next", text: tr("Next") });
  }
  makeFrame() {
    const glossary = quietButton("", { text: tr("Glossary"), onclick: () => this.open("glossary", 1) });
    const language = SpecKD.languageChoice({ class: "sk-learn-language" });
    const top = el("header", { class: "sk-learn-top" }, this.listButton, glossary, this.score, language);
    const turns = { class: "sk-learn-foot", "aria-label": tr("Steps of this lesson") };
    const foot = el("nav", turns, this.previous, this.dots, this.next);
    const frame = { class: "sk-learn-read", "aria-label": tr("Lesson") };
    this.reading = el("section", frame, top, this.list.element, this.page, foot);
    return this.reading;
  }
  makeLive() {
    this.caption = SpecKD.createCaption();
    const title = tr("Set the picture again to what the text speaks of");
    this.restoreButton = quietButton("sk-learn-restore", { title, text: tr("Restore") });
    const share = quietButton("sk-icon-button", { title: tr("Card to share"), "aria-label": tr("Card to share") });
    this.share = share;
    share.append(icon("M8 10V2M5 5l3-3 3 3M3 9v4h10V9"));
    share.addEventListener("click", () => {
      this.stage.card(this.root).then((card) => SpecKD.download(card, "speckd-lesson.card.png"), () => {});
    });
    const { button, bar, box } = this.own;
    const caption = { class: "sk-caption sk-learn-caption" };
    const region = { "aria-label": tr("The picture of this step"), tabindex: "0", role: "region" };
    this.live = el(
      "section",
      { class: "sk-learn-live", ...region },
      el("div", caption, this.caption.chip, this.caption.line, this.restoreButton, share, button),
      bar,
      box,
      this.stage.element,
    );
    this.spoken = el("p", { class: "sk-hidden", "aria-live": "polite" });
  }
  listen() {
    this.previous.addEventListener("click", () => this.forward(-1));
    this.next.addEventListener("click", () => this.forward(1));
    this.page.addEventListener("scroll", () => this.text.hideTip(), { passive: true });
    this.restoreButton.addEventListener("click", () => {
      this.setState(this.stateNow());
      this.spoken.textContent = "";
      this.spoken.textContent = tr("The picture is as the text speaks of it.");
    });
    /* Keys turn pages where they mean nothing else: not in a field, a slider, a choice or a strip. */
    this.reading.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (/** @type {Element} */ (event.target).closest(ELSEWHERE)) return;
      const way = TURNS[event.key];
      if (!way || this.app.classList.contains("sk-learn-in-glossary")) return;
      if (event.key.startsWith("Page")) { // first the page itself is read to its end
        const { scrollHeight, clientHeight, scrollTop } = this.page;
        const rest = way > 0 ? scrollHeight - clientHeight - scrollTop : scrollTop;
        if (rest > 4 && !narrow()) return;
      }
      event.preventDefault();
      this.forward(way);
    });
  }

  /* --- opening a step ------------------------------------------------------------------------------------------ */

  async open(name, step = 1, { focus = true, tell = true } = {}) {
    const mine = ++this.ticket;
    this.list.show(false, false);
    this.text.hideTip();
    if (name === "glossary") {
      this.showGlossary(focus, tell);
      return;
    }
    const known = this.lessons.find((one) => one.id === name) || this.lessons[0];
    const complain = (error) => mine === this.ticket && this.own.complain(error);
    const lesson = await this.material.lesson(known.id).catch(complain);
    if (!lesson || mine !== this.ticket) return;
    const index = Math.max(0, Math.min(lesson.steps.length - 1, step - 1));
    this.here = { lesson, index };
    this.turnTo(focus, tell);
    await this.setState(lesson.steps[index].state, mine).catch(complain);
    if (mine !== this.ticket) return;
    // for tests: the step stands, picture and all
    this.root.dataset.step = `${this.here.lesson.id}/${this.here.index + 1}`;
  }
  turnTo(focus, tell) {
    const { lesson, index } = this.here;
    this.app.classList.remove("sk-learn-in-glossary");
    this.write();
    this.mark();
    if (tell && this.address) this.address.write("learn", { lesson: lesson.id, step: String(index + 1) });
    this.page.scrollTop = 0;
    if (!focus) return;
    this.heading.focus({ preventScroll: !narrow() });
    if (narrow()) this.root.scrollIntoView({ block: "start" });
  }
  reopen() {
    if (this.here) this.open(this.here.lesson.id, this.here.index + 1, { focus: false, tell: false });
  }

  async setState(state, mine = this.ticket) {
    this.share.hidden = Boolean(state.decoding); // a card is drawn of texts and runs
    if (state.trace) {
      const material = await this.material.trace(state.trace);
      if (mine !== this.ticket) return;
      this.stage.showTrace(material, state);
      this.own.button.hidden = false;
    } else if (state.decoding) {
      const decoding = await this.material.decoding(state.decoding);
      if (mine !== this.ticket) return;
      this.stage.showDecoding(decoding, state);
      this.own.button.hidden = true;
      this.own.show(false, false);
    } else if (state.run) {
      const run = await this.material.run(state.run);
      if (mine !== this.ticket) return;
      this.stage.showRun(run, state);
      this.own.button.hidden = true;
      this.own.show(false, false);
    } else if (state.study) {
      const map = await this.material.study(state.study.control);
      if (mine !== this.ticket) return;
      this.stage.showStudy(map, state);
      this.own.button.hidden = true;
      this.own.show(false, false);
    } else {
      this.stage.clear();
      this.caption.clear();
      this.own.button.hidden = true;
    }
    this.tellMoved();
    this.stage.point(this.live, state.point);
  }
  stateNow() {
    return this.here ? this.here.lesson.steps[this.here.index].state : null;
  }
  /* Restore is offered once something on screen is no longer what the text speaks of. */
  tellMoved() {
    const state = this.stateNow();
    const moved = state !== null && this.stage.moved(state);
    this.restoreButton.disabled = !moved;
    this.app.classList.toggle("sk-learn-moved", moved);
  }

  /* --- writing a step ------------------------------------------------------------------------------------------ */

  makeExercise(task) {
    return SpecKD.createExercise(task, {
      id: this.id,
      build: this.text.build,
      onAnswer: (_, right, reveal) => {
        if (!this.own.current() || task.id.startsWith("final-")) this.progress.answer(task, right);
        this.score.textContent = this.progress.words();
        this.stage.reveal(this.stateNow(), reveal);
        this.readOn();
      },
    });
  }
  /* How the final test went, and what to read again. */
  makeOutcome(node) {
    const told = this.progress.cases(node.cases);
    const missed = told.filter(([, right]) => !right).map(([one]) => one);
    const says = el("p", {});
    if (!told.length) says.append(node.none);
    else {says.append(
        tr("{right} of {n} cases were right at once.", { right: told.length - missed.length, n: told.length }),
      );}
    if (told.length === node.cases.length && !missed.length) says.append(" ", node.all);
    missed.forEach((one, i) => says.append(i ? ", " : ` ${node.again} `, this.text.link(one, [one.about])));
    if (missed.length) says.append(".");
    const again = el("button", { type: "button", class: "sk-button sk-learn-draw", text: tr("Draw ten new cases") });
    again.addEventListener("click", () => {
      this.progress.drawAnew();
      this.open("final", 1);
    });
    return el("div", { class: "sk-learn-outcome" }, says, again);
  }
  write() {
    const { lesson, index } = this.here;
    const step = lesson.steps[index];
    const number = this.lessons.findIndex((one) => one.id === lesson.id) + 1;
    const which = tr("Lesson {number} of {n} ", { number, n: this.lessons.length });
    this.kicker.replaceChildren(el("span", { class: "sk-muted", text: which }), lesson.title);
    this.heading.replaceChildren(...step.title.map(this.text.build));
    this.text.sources = [];
    const nodes = this.withholding(step, step.body.map(this.text.build));
    if (this.own.current() && step.state.trace === "healed") {
      const note = tr("The numbers and exercises below are those of your sentence.");
      const words = tr("The words were written beside the recorded one.");
      nodes.unshift(el("p", { class: "sk-learn-note sk-small", text: `${note} ${words}` }));
    }
    nodes.push(...this.sources(nodes));
    this.body.replaceChildren(...nodes);
    this.writeFoot(number);
    const where = { number, step: index + 1, n: lesson.steps.length };
    this.page.setAttribute("aria-label", tr("Lesson {number}, step {step} of {n}", where));
    this.progress.read(lesson, index + 1);
  }
  /* The step's sources, under its words; those of words that still wait for a prediction wait with them. */
  sources(nodes) {
    const { sources } = this.text;
    if (!sources.length) return [];
    const waiting = nodes.find((node) => node.hidden);
    const cited = nodes.filter((node) => node !== waiting).flatMap((node) =>
      [.../** @type {NodeListOf<HTMLElement>} */ (node.querySelectorAll(".sk-learn-cite"))].map((one) => one.title)
    );
    const items = sources.map((text) => el("li", { text }));
    items.forEach((item, i) => item.hidden = Boolean(waiting) && !cited.includes(sources[i]));
    const list = el("ol", { class: "sk-learn-sources sk-small sk-muted", "aria-label": tr("Sources") }, ...items);
    list.hidden = items.every((item) => item.hidden);
    const readOn = this.readOn;
    this.readOn = () => {
      readOn();
      for (const node of [list, ...items]) node.hidden = false;
    };
    return [list];
  }
  /* What follows a question gives its answer away: it waits for the prediction, or for one who wants to make none. */
  withholding(step, nodes) {
    this.readOn = () => {};
    const at = step.body.findIndex((node) => node.tag === "exercise");
    if (at < 0 || at === nodes.length - 1 || this.progress.answered(step.body[at])) return nodes;
    const after = el("div", { class: "sk-learn-after", hidden: true }, ...nodes.splice(at + 1));
    const skip = quietButton("sk-learn-skip", { text: tr("Read on without predicting") });
    this.readOn = () => {
      after.hidden = false;
      skip.remove();
    };
    skip.addEventListener("click", () => {
      this.readOn();
      after.querySelector("p, ul, div").scrollIntoView({ block: "nearest" });
    });
    return [...nodes, skip, after];
  }
  writeFoot(number) {
    const { lesson, index } = this.here;
    this.dots.replaceChildren(...lesson.steps.map((one, i) => {
      const title = plainText(one.title);
      const current = i === index ? "step" : null;
      const about = { "aria-label": tr("Step {n}: {title}", { n: i + 1, title }), title, "aria-current": current };
      const dot = el("button", { type: "button", class: "sk-learn-dot", ...about });
      dot.addEventListener("click", () => this.open(lesson.id, i + 1));
      return el("li", { hidden: Boolean(one.left_out) }, dot);
    }));
    this.previous.disabled = number === 1 && index === 0;
    const last = index === lesson.steps.length - 1;
    const following = this.lessons[number];
    this.next.textContent = last ? (following ? tr("Next lesson") : tr("All lessons")) : tr("Next");
    this.next.title = last && following ? following.title : "";
  }
  forward(way) {
    if (!this.here) return;
    const { lesson, index } = this.here;
    let at = index + way;
    while (lesson.steps[at]?.left_out) at += way; // it speaks of a token that one's own sentence has not
    const other = this.lessons[this.lessons.findIndex((one) => one.id === lesson.id) + way];
    if (at >= 0 && at < lesson.steps.length) this.open(lesson.id, at + 1);
    else if (other) this.open(other.id, way > 0 ? 1 : other.steps);
    else if (way > 0) this.list.show(true);
  }
  mark() {
    this.score.textContent = this.progress.words();
    this.list.mark();
  }

  showGlossary(focus, tell) {
    this.here = null;
    this.app.classList.add("sk-learn-in-glossary");
    this.kicker.replaceChildren(el("span", { class: "sk-muted", text: tr("All lessons") }));
    this.heading.replaceChildren(tr("Glossary"));
    const words = el("dl", { class: "sk-learn-glossary" });
    for (const [name, term] of Object.entries(this.glossary)) {
      const lesson = this.lessons.find((one) => one.id === term.lesson);
      const says = el("dd", {}, ...term.says.map(this.text.buildPlain));
      if (lesson) says.append(el("span", {}, " ", this.text.link(term, [lesson.title])));
      words.append(el("dt", { text: name }), says);
    }
    this.body.replaceChildren(words);
    this.dots.replaceChildren();
    this.page.setAttribute("aria-label", tr("Glossary"));
    this.page.scrollTop = 0;
    this.mark();
    if (tell && this.address) this.address.write("learn", { lesson: "glossary" });
    if (focus) this.heading.focus();
    this.root.dataset.step = "glossary";
  }

  /* --- the beginning ------------------------------------------------------------------------------------------- */

  begin() {
    const { address } = this;
    if (address) {
      address.listen("learn", (params) => {
        const [lesson, step] = this.wished(params);
        this.open(lesson, step, { tell: !params.has("lesson") });
      });
    }
    this.mark();
    const [lesson, step] = this.wished(address ? address.params("learn") : new URLSearchParams());
    this.open(lesson, step, { focus: false });
  }
  wished(params) {
    const lesson = params.get("lesson");
    if (lesson) return [lesson, Number(params.get("step")) || 1];
    const last = this.progress.last();
    if (last && this.lessons.some((one) => one.id === last.lesson)) return [last.lesson, last.step];
    return [this.lessons[0].id, 1];
  }
  /* For tests. */
  get picture() {
    return this.stage.picture;
  }
  state() {
    return { here: this.here, own: this.own.current(), moment: this.stage.moment, parts: this.stage };
  }
}

SpecKD.createLearner = function (root, options) {
  const page = new LearnPage(root, options);
  root.learner = page;
  return (value) => page.own.update(value);
};
