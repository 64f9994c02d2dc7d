/* Which student, of which teacher: those of the packaged pair, the pairs that the server lists, what the visitor has
   trained, and where the server allows it two models by their names. */

const { el, visible } = SpecKD;
const OWN_HINT = "Hub ids or folders with safetensors; both need one vocabulary.";
const OWN = "own";
const PACKAGED = "packaged";
const nameOf = ({ teacher, student }) => `${student} ${teacher}`; // a Hub id has no space

class PairChoice {
  /** @typedef {{teacher: string, student: string, label: string}} Listed */
  /** @param {{id: string, students: Record<string, string>, pairs?: Listed[], ownModels: boolean, trained?: boolean}}
      options */
  constructor({ id, students, pairs = [], ownModels, trained = true }) {
    this.students = { ...students };
    this.pairs = pairs;
    this.ownModels = ownModels;
    this.select = el("select", { class: "sk-select", id: `${id}-student`, "data-field": "student" });
    for (const [value, text] of Object.entries(students)) this.add(value, text);
    for (const pair of pairs) this.add(nameOf(pair), pair.label);
    if (ownModels) this.add(OWN, "models of your own");
    if (trained) {
      SpecKD.students.listen(({ value, label }) => {
        this.students[value] = label;
        this.add(value, label);
      });
    }
    const hub = (field, placeholder) =>
      el("input", {
        type: "text",
        class: "sk-text",
        id: `${id}-${field}`,
        "data-field": field,
        spellcheck: "false",
        placeholder,
      });
    this.teacher = hub("teacher", "Qwen/Qwen2.5-1.5B-Instruct");
    this.student = hub(OWN, "Qwen/Qwen2.5-0.5B-Instruct");
    this.own = el(
      "div",
      { class: "sk-own", hidden: true },
      SpecKD.drawerField("Teacher", this.teacher),
      SpecKD.drawerField("Student", this.student, OWN_HINT),
    );
  }
  add(value, text) {
    this.select.append(el("option", { value, text: visible(String(text)) }));
  }
  isOwn() {
    return this.select.value === OWN;
  }
  /* {teacher, student} as a request names them. */
  read() {
    const pair = this.pairs.find((one) => nameOf(one) === this.select.value);
    this.own.hidden = !this.isOwn();
    if (this.isOwn()) return { teacher: this.teacher.value.trim(), student: this.student.value.trim() };
    return pair ? { teacher: pair.teacher, student: pair.student } : { teacher: PACKAGED, student: this.select.value };
  }
  show(form) {
    const pair = this.pairs.find((one) => nameOf(one) === nameOf(form));
    const own = this.ownModels && !pair && (form.teacher !== PACKAGED || !Object.hasOwn(this.students, form.student));
    this.select.value = pair ? nameOf(pair) : own ? OWN : form.student;
    this.own.hidden = !own;
    if (!own) return;
    this.teacher.value = form.teacher;
    this.student.value = form.student;
  }
}

SpecKD.createPairChoice = (options) => new PairChoice(options);
