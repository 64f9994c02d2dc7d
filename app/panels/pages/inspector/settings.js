/* What a question is asked with: the drawer of settings, what it makes of the form, and the address. */

const { el } = SpecKD;
const SOURCES = {
  teacher: "teacher, greedy",
  "teacher+": "teacher, sampled",
  student: "student, greedy",
  "student+": "student, sampled",
  given: "text of your own",
};
const whole = (n) => n.toLocaleString("en");

/* Every setting: its field in the request, its key in the address, its kind and its range. */
/** @type {(tokens: number) => FormRow[]} */
const questionTable = (tokens) => [
  { field: "prompt", key: "q", kind: "text" },
  { field: "teacher", key: "teacher", kind: "text" },
  { field: "student", key: "student", kind: "text" },
  { field: "source", key: "source", kind: "choice", of: ["teacher", "student", "given"] },
  { field: "response", key: "given", kind: "text" },
  { field: "do_sample", key: "sample", kind: "flag" },
  { field: "max_new_tokens", key: "len", kind: "number", min: 1, max: tokens, step: 1 },
  { field: "temperature", key: "temp", kind: "number", min: 0.05, max: 5, step: 0.05 },
  { field: "seed", key: "seed", kind: "number", min: 0, step: 1 },
];
/** @type {FormRow[]} */
const KNOB_TABLE = [
  { field: "gate", key: "gate", kind: "choice", of: Object.keys(SpecKD.GATES) },
  { field: "k", key: "k", kind: "number", min: 1, max: SpecKD.K_MAX, step: 1, strict: true },
  { field: "beta", key: "beta", kind: "number", min: 0, max: 1, strict: true },
  { field: "divergence", key: "div", kind: "choice", of: Object.keys(SpecKD.DIVERGENCES) },
];

class InspectSettings {
  constructor({ id, button, limits, ownModels, pairs, place, students, onChange }) {
    this.id = id;
    this.limits = limits;
    this.listed = pairs.length > 0;
    this.pair = SpecKD.createPairChoice({ id, students, pairs, ownModels });
    this.table = SpecKD.createForm(questionTable(limits.tokens));
    this.knobs = SpecKD.createForm(KNOB_TABLE);
    this.form = { ...speckdWords.defaults.question };
    this.inputs = {};
    this.makeFields();
    this.drawer = this.makeDrawer(button, place);
    for (const kind of ["input", "change"]) {
      this.drawer.addEventListener(kind, () => {
        this.read();
        onChange();
      });
    }
  }

  input(name, more = {}, tag = "input") {
    const known = tag === "input" ? this.table.input(name) : {};
    const field = { id: `${this.id}-${name}`, "data-field": name, class: tag === "select" ? "sk-select" : "sk-text" };
    this.inputs[name] = el(/** @type {"input"} */ (tag), { ...field, ...known, ...more });
    return this.inputs[name];
  }
  makeFields() {
    this.source = SpecKD.radioField("Response from", { name: `${this.id}-source`, field: "source" }, SOURCES);
    const text = this.input("response", { rows: 5, dir: "auto", spellcheck: "false" }, "textarea");
    const most = `Up to ${whole(this.limits.response)} characters and ${whole(this.limits.tokens)} tokens.`;
    this.given = el("div", { class: "sk-given", hidden: true }, SpecKD.drawerField("Text to read", text, most));
  }
  makeDrawer(button, place) {
    const field = SpecKD.drawerField;
    const { select: student, own } = this.pair;
    const note = "These take effect at the next Run. The gate’s own controls act at once.";
    return SpecKD.createDrawer(
      { id: `${this.id}-drawer`, button, note, focus: student },
      field(this.listed ? "Student" : "Student of the packaged teacher", student),
      own,
      this.source.element,
      this.given,
      field("Length, tokens at most", this.input("max_new_tokens"), `1 to ${whole(this.limits.tokens)}`),
      field(
        "Temperature",
        this.input("temperature"),
        "Divides both models’ logits everywhere, greedy responses included.",
      ),
      field("Seed", this.input("seed"), "Names the sampled response, the draws and their coins."),
      place ? el("p", { class: "sk-small sk-muted sk-place", text: place }) : null,
    );
  }

  read() {
    const { form, inputs } = this;
    const source = this.source.value();
    Object.assign(form, this.pair.read());
    form.source = source.replace("+", "");
    form.do_sample = source.endsWith("+");
    form.response = inputs.response.value;
    for (const name of this.table.numbers) form[name] = this.table.read(name, inputs[name]);
    this.given.hidden = form.source !== "given";
  }
  show() {
    const { form, inputs } = this;
    this.pair.show(form);
    this.source.choose(form.source + (form.do_sample && form.source !== "given" ? "+" : ""));
    inputs.response.value = form.response || "";
    for (const name of this.table.numbers) this.table.show(inputs[name], form[name]);
    this.given.hidden = form.source !== "given";
  }

  /* --- the address --------------------------------------------------------------------------------------------- */

  toAddress(knobs) {
    const { source, response } = this.form;
    const params = this.table.toParams({ ...this.form, response: source === "given" ? response : null });
    return this.knobs.toParams(knobs, params);
  }
  fromAddress(params) {
    const start = params.get("start") || "";
    const at = params.get("at") || "";
    return {
      form: params.has("q") ? this.table.fromParams(params) : null,
      knobs: this.knobs.fromParams(params),
      start: /^\d+(\.\d+)*$/.test(start) ? start.split(".").map(Number) : [],
      at: /^[1-9]\d*$/.test(at) ? Number(at) - 1 : null,
    };
  }
}

SpecKD.createInspectSettings = (options) => new InspectSettings(options);
