/* The list of lessons below its button: how long each takes, what was read of it and predicted right. */

const { el, tr } = SpecKD;

class LessonList {
  /* `page` has lessons, progress, here and open(). */
  constructor({ page, button }) {
    this.page = page;
    this.button = button;
    const about = { id: button.getAttribute("aria-controls"), "aria-label": tr("Lessons"), hidden: true };
    this.element = el("nav", { class: "sk-learn-list", ...about });
    button.addEventListener("click", () => this.show(this.element.hidden));
    this.element.addEventListener("keydown", (event) => this.walk(event));
    document.addEventListener("pointerdown", (event) => {
      const target = /** @type {Node} */ (event.target);
      if (this.element.hidden || this.element.contains(target) || button.contains(target)) return;
      this.show(false, false);
    });
  }
  walk(event) {
    const items = [...this.element.querySelectorAll("button")];
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const at = items.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (way && at >= 0) {
      event.preventDefault();
      event.stopPropagation();
      items[(at + way + items.length) % items.length].focus();
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      this.show(false);
    }
  }
  show(yes, focus = true) {
    if (yes) this.page.mark();
    this.element.hidden = !yes;
    this.button.setAttribute("aria-expanded", String(yes));
    if (!focus) return;
    /** @type {HTMLButtonElement} */
    const current = this.element.querySelector("button[aria-current]") || this.element.querySelector("button");
    (yes ? current : this.button).focus();
  }
  mark() {
    const items = this.page.lessons.map((lesson, i) => this.item(lesson, i));
    const note = el("p", {
      class: "sk-small sk-muted sk-learn-list-note",
      text: tr("Progress and score stay in this browser."),
    });
    this.element.replaceChildren(note, el("ol", {}, ...items));
  }
  item(lesson, i) {
    const { progress, here } = this.page;
    const { right, tried, all } = progress.score(lesson);
    const seen = progress.seen(lesson);
    const detail = tr("{minutes} min, {steps} steps", lesson) +
      (seen ? tr(", {n} read", { n: Math.min(seen, lesson.steps) }) : "") +
      (tried ? tr(", {right} of {all} predictions right at once", { right, all }) : "");
    const current = here && here.lesson.id === lesson.id ? "true" : null;
    const button = el(
      "button",
      { type: "button", class: "sk-learn-lesson", "aria-current": current },
      el("span", { class: "sk-learn-lesson-number", "aria-hidden": "true", text: String(i + 1) }),
      el("span", { class: "sk-learn-lesson-title", text: lesson.title }),
      el("small", { text: detail }),
    );
    button.addEventListener("click", () => this.page.open(lesson.id, 1));
    return el("li", {}, button);
  }
}

SpecKD.createLessonList = (options) => new LessonList(options);
