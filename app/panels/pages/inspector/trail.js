/* The way back from "continue from here", and the notice above a page that cannot show what its address says. */

const { el, tr } = SpecKD;

/* Each picture that was left lies on a pile; the browser's Back, or the button in the caption, takes the last one. */
class Trail {
  constructor(page) {
    this.page = page;
    this.left = [];
    this.going = null; // the picture that is being left, until another one has come
    this.back = false; // a picture has just come back: the address that follows is its own
    globalThis.addEventListener("popstate", () => this.pop());
  }
  leave() {
    const { picture, shown, form, prefix } = this.page;
    this.going = { shown, form: { ...form }, prefix, pin: picture.state.pinned };
  }
  arrived() {
    if (!this.going) return;
    this.left.push(this.going);
    this.going = null;
    SpecKD.address.flush();
    history.pushState({ steered: this.left.length }, "", location.href);
    this.page.remember();
    this.page.describe();
    const mark = this.page.strip.token(this.page.picture.state.pinned);
    if (mark) mark.focus({ preventScroll: true }); // where the text was steered
  }
  failed() {
    this.going = null;
  }
  pop() {
    const depth = (history.state && history.state.steered) || 0;
    if (this.page.asking.busy() || depth >= this.left.length) return;
    let last = null;
    while (this.left.length > depth) last = this.left.pop();
    this.back = true;
    setTimeout(() => {
      this.back = false;
    }, 100);
    this.page.comeBack(last);
  }
  /* Whether the address changes because a picture has come back. */
  returned() {
    return this.back;
  }
  describe(caption) {
    if (!this.left.length || !this.page.prefix.length) return;
    const about = { type: "button", class: "sk-button sk-quiet sk-small sk-undo", text: tr("Undo") };
    const undo = el("button", { ...about, title: tr("Back to the text before it was steered") });
    undo.addEventListener("click", () => history.back());
    caption.prepend(undo);
  }
}

class Notice {
  constructor() {
    this.element = el("p", { class: "sk-notice", role: "status", hidden: true });
  }
  /* A trained student is known to its visitor alone. */
  checkStudent(form) {
    const foreign = form.student.startsWith("trained:") &&
      !SpecKD.students.all().some(({ value }) => value === form.student);
    this.element.hidden = !foreign;
    if (!foreign) return;
    form.student = speckdWords.defaults.question.student;
    this.element.textContent = tr(
      "This link leads to a student that only its visitor has; it was trained here. The healed one answers instead.",
    );
  }
}

SpecKD.createTrail = (page) => new Trail(page);
SpecKD.createNotice = () => new Notice();
