/* What a decoding is asked with: draft and policy on the line, the rest in the drawer, all of it in the address. */

const { el, visible, tr } = SpecKD;
const whole = (n) => n.toLocaleString("en");

/** @type {(tokens: number) => FormRow[]} */
const tableOf = (tokens) => [
  { field: "prompt", key: "q", kind: "text" },
  { field: "teacher", key: "teacher", kind: "text" },
  { field: "student", key: "student", kind: "text" },
  { field: "draft", key: "draft", kind: "text" },
  { field: "policy", key: "policy", kind: "text" },
  { field: "do_sample", key: "sample", kind: "flag" },
  { field: "max_new_tokens", key: "len", kind: "number", min: 1, max: tokens, step: 1 },
  { field: "temperature", key: "temp", kind: "number", min: 0.05, max: 5, step: 0.05 },
  { field: "seed", key: "seed", kind: "number", min: 0, step: 1 },
  { field: "lenience", key: "lenience", kind: "number", min: 0.01, max: 1, step: 0.01 },
];

/* A list of named ways, which also shows one that it has no name for. */
function choose(select, value) {
  if (![...select.options].some((one) => one.value === value)) {
    select.append(el("option", { value, text: visible(value) }));
  }
  select.value = value;
}

class DecodeSettings {
  constructor({ id, button, limits, ownModels, pairs, place, students, defaults, onChange }) {
    this.id = id;
    this.pair = SpecKD.createPairChoice({ id, students, pairs, ownModels });
    this.table = SpecKD.createForm(tableOf(limits.tokens));
    this.form = { ...defaults };
    this.inputs = {};
    this.makeLine();
    this.drawer = this.makeDrawer(button, limits, place);
    const heard = (event) => {
      this.read(event.target);
      onChange();
    };
    for (const kind of ["input", "change"]) {
      this.drawer.addEventListener(kind, heard);
      this.line.addEventListener(kind, heard);
    }
  }

  input(name, more = {}, tag = "input") {
    const known = tag === "input" && this.table.numbers.includes(name) ? this.table.input(name) : { type: "text" };
    const about = { id: `${this.id}-${name}`, "data-field": name, class: tag === "select" ? "sk-select" : "sk-text" };
    this.inputs[name] = el(/** @type {"input"} */ (tag), { ...about, ...(tag === "input" ? known : {}), ...more });
    return this.inputs[name];
  }
  makeLine() {
    const list = (name, words, label) => {
      const select = this.input(name, { "aria-label": label }, "select");
      for (const [value, text] of Object.entries(words)) select.append(el("option", { value, text: tr(text) }));
      return select;
    };
    const draft = list("draft", speckdWords.drafts, tr("Draft"));
    const policy = list("policy", speckdWords.policies, tr("How far it drafts"));
    const label = (text, node) => el("label", { class: "sk-field" }, el("span", { text }), node);
    this.lossy = el("span", { class: "sk-chip sk-chip-lossy", hidden: true });
    const fields = [label(tr("draft"), draft), label(tr("policy"), policy)];
    this.line = el("div", { class: "sk-decode-line" }, ...fields, this.lossy);
  }
  makeDrawer(button, limits, place) {
    const field = SpecKD.drawerField;
    const { select: student, own } = this.pair;
    this.how = SpecKD.radioField(tr("The teacher writes"), { name: `${this.id}-how`, field: "do_sample" }, {
      greedy: tr("greedily: its first choice each time"),
      sampled: tr("by draws from its distribution"),
    });
    const written = { spellcheck: "false", autocomplete: "off" };
    return SpecKD.createDrawer(
      { id: `${this.id}-drawer`, button, note: tr("These take effect at the next Run."), focus: student },
      field(tr("Student, a possible draft"), student),
      own,
      field(
        tr("Draft, as it is written"),
        this.input("draft-text", written),
        "student:vocab=8192, exit:layer=8, lookup",
      ),
      field(tr("Policy, as it is written"), this.input("policy-text", written), "fixed:g=4, confidence:p=0.4, cost"),
      this.how.element,
      field(tr("Temperature"), this.input("temperature"), tr("Divides both models’ logits everywhere.")),
      field(tr("Seed"), this.input("seed"), tr("Names every coin of a sampled text.")),
      field(tr("Length, tokens at most"), this.input("max_new_tokens"), `1 – ${whole(limits.tokens)}`),
      field(tr("Lenience"), this.input("lenience"), tr("1 is lossless; below, more is accepted and the text changes.")),
      place ? el("p", { class: "sk-small sk-muted sk-place", text: place }) : null,
    );
  }

  read(changed) {
    const { form, inputs } = this;
    Object.assign(form, this.pair.read());
    for (const name of ["draft", "policy"]) {
      if (changed === inputs[`${name}-text`]) choose(inputs[name], changed.value.trim());
      form[name] = inputs[name].value;
      if (changed !== inputs[`${name}-text`]) inputs[`${name}-text`].value = form[name];
    }
    form.do_sample = this.how.value() === "sampled";
    for (const name of this.table.numbers) form[name] = this.table.read(name, inputs[name]);
    this.markLossy();
  }
  show() {
    const { form, inputs } = this;
    this.pair.show(form);
    for (const name of ["draft", "policy"]) {
      choose(inputs[name], form[name]);
      inputs[`${name}-text`].value = form[name];
    }
    this.how.choose(form.do_sample ? "sampled" : "greedy");
    for (const name of this.table.numbers) this.table.show(inputs[name], form[name]);
    this.markLossy();
  }
  /* What makes the next text another than the teacher's is in sight, also where the drawer is shut. */
  markLossy() {
    const { lenience } = this.form;
    this.lossy.hidden = !(lenience < 1);
    this.lossy.textContent = SpecKD.lossyMark({ lenience });
  }

  toAddress() {
    return this.table.toParams(this.form);
  }
  fromAddress(params) {
    return params.has("q") ? this.table.fromParams(params) : null;
  }
}

SpecKD.createDecodeSettings = (options) => new DecodeSettings(options);
