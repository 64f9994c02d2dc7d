/* What a training run is asked with: the line of controls on top, the drawer of settings, and the address. */

const LONGEST_LINK = 1500; // characters of pasted prompts that still fit an address
const FILE_KINDS = ".jsonl,.json,.txt,application/json,text/plain";

/* Every setting: its field in the request, its key in the address, its kind and its range. */
/** @type {(limits: Record<string, number>) => FormRow[]} */
const settingsTable = ({ steps, batch, rank }) => [
  { field: "student", key: "student", kind: "text" },
  { field: "teacher", key: "teacher", kind: "text" },
  { field: "data", key: "data", kind: "choice", of: Object.keys(speckdWords.data) },
  { field: "responses", key: "responses", kind: "choice", of: Object.keys(speckdWords.responses) },
  { field: "steps", key: "steps", kind: "number", min: 1, max: steps, step: 1 },
  { field: "batch_size", key: "batch", kind: "number", min: 1, max: batch, step: 1 },
  { field: "learning_rate", key: "lr", kind: "number", min: 0 },
  { field: "lora_rank", key: "rank", kind: "number", min: 1, max: rank, step: 1 },
  { field: "seed", key: "seed", kind: "number", min: 0, step: 1 },
];
/** @type {FormRow[]} */
const GATE_TABLE = [
  { field: "k", kind: "number", min: 1, max: SpecKD.K_MAX, step: 1 },
  { field: "beta", kind: "number", min: 0, max: 1, step: 0.01 },
  { field: "rate", kind: "number", min: 0, max: 1, step: 0.01 },
];
const RATE = 0.5; // of random tokens, where the other racer's share is not known

const { el } = SpecKD;
const sizeOf = (bytes) => bytes >= 1e6 ? `${SpecKD.number(bytes / 1e6, 2)} MB` : `${SpecKD.number(bytes / 1e3, 2)} kB`;

class DistillControls {
  constructor({ id, students, gates, limits, defaults, ownModels, say, rateOf, onChange, onSubmit }) {
    this.id = id;
    this.pair = SpecKD.createPairChoice({ id, students, ownModels, trained: false });
    this.say = say;
    this.onChange = onChange;
    this.rateOf = rateOf;
    this.most = limits.bytes || 1_000_000;
    this.initial = { ...speckdWords.defaults.run, ...defaults };
    this.form = { ...this.initial, gates: [...this.initial.gates] };
    this.table = SpecKD.createForm(settingsTable(limits));
    this.knobs = SpecKD.createForm(GATE_TABLE);
    this.proper = {}; // the last proper value of each k and of beta
    this.fileName = ""; // of the uploaded data
    this.inputs = {};
    this.makeTop(gates);
    this.makeDrawer();
    this.top.addEventListener("submit", (event) => {
      event.preventDefault();
      onSubmit();
    });
    for (const node of [this.top, this.drawer]) {
      for (const kind of ["input", "change"]) {
        node.addEventListener(kind, () => {
          this.read();
          onChange();
        });
      }
    }
  }

  input(name, form = this.table, tag = /** @type {const} */ ("input"), more = {}) {
    const field = { id: `${this.id}-${name}`, "data-field": name, class: "sk-text" };
    this.inputs[name] = el(tag, { ...field, ...(form ? form.input(name) : {}), ...more });
    return this.inputs[name];
  }

  makeTop(gates) {
    const about = { "aria-label": "Settings: data, responses, learning rate, batch, seed", title: "Settings" };
    this.settingsButton = SpecKD.iconButton(about, "M2 4h12M2 8h12M2 12h12");
    const student = this.pair.select;
    this.racers = [0, 1].map((index) => this.makeRacer(index, gates.length ? gates : ["topk", "speck", "none"]));
    const steps = this.input("steps", this.table, "input", { class: "sk-number" });
    this.startButton = el("button", { type: "submit", class: "sk-button sk-primary sk-run", text: "Start" });
    this.top = el(
      "form",
      { class: "sk-top sk-distill-top", novalidate: true },
      el("h1", { class: "sk-hidden", text: "Distill a student" }),
      this.settingsButton,
      el("label", { class: "sk-field", for: student.id }, "student", student),
      el("label", { class: "sk-field", for: steps.id }, "steps", steps),
      ...this.racers.map((racer) => racer.node),
      this.startButton,
    );
  }

  makeRacer(index, gates) {
    const letter = SpecKD.RACERS[index];
    const about = {
      id: `${this.id}-gate-${index}`,
      "data-field": `gate-${index}`,
      "aria-label": `Gate of racer ${letter}`,
    };
    const gate = el("select", { class: "sk-select", ...about });
    const seen = new Set();
    for (const option of gates) {
      const spec = typeof option === "string" ? option : option.value;
      const { kind } = SpecKD.readGate(spec);
      if (seen.has(kind)) continue;
      seen.add(kind);
      const text = option.label || speckdWords.run_gates[kind] || kind;
      gate.append(el("option", { value: kind, text, "data-spec": String(spec).includes(":") ? spec : "" }));
    }
    if (index) gate.append(el("option", { value: "", text: "no second racer" }));
    const k = el("input", {
      ...this.knobs.input("k"),
      class: "sk-number sk-racer-k",
      id: `${this.id}-k-${index}`,
      "data-field": `k-${index}`,
      "aria-label": `k of racer ${letter}`,
    });
    const kBox = el("label", { class: "sk-field", for: k.id }, el("span", { class: "sk-symbol", text: "k" }), k);
    const rate = el("input", {
      ...this.knobs.input("rate"),
      class: "sk-number sk-racer-k",
      "data-field": `rate-${index}`,
      "aria-label": `rate of racer ${letter}`,
      title: "The chance of each token; at first the share that the other racer accepted in the run on screen",
    });
    const rateBox = el("label", { class: "sk-field", hidden: true }, "rate", rate);
    const group = { role: "group", "aria-label": `Racer ${letter}` };
    const node = el(
      "div",
      { class: `sk-racer sk-racer-${letter.toLowerCase()}`, ...group },
      SpecKD.racerMark(index),
      el("b", { text: letter }),
      gate,
      kBox,
      rateBox,
    );
    gate.addEventListener("change", () => {
      rate.value = ""; // the other racer's, until somebody says another
    });
    return { node, gate, k, kBox, rate, rateBox };
  }

  makeDrawer() {
    const field = SpecKD.drawerField;
    this.data = SpecKD.radioField("Learn from", { name: `${this.id}-data`, field: "data" }, speckdWords.data);
    const written = { name: `${this.id}-responses`, field: "responses" };
    this.responses = SpecKD.radioField("Responses written by", written, speckdWords.responses);
    const text = this.input("text", null, /** @type {any} */ ("textarea"), {
      rows: 6,
      dir: "auto",
      spellcheck: "false",
    });
    const upTo = `Up to ${sizeOf(this.most)}; the teacher or the student writes the answers.`;
    this.pasted = el("div", { class: "sk-given sk-pasted", hidden: true }, field("Prompts, one a line", text, upTo));
    this.makeUpload();
    const rankHint = "Young and healed students train the adapter that they have.";
    this.rank = el("div", { class: "sk-rank" });
    this.rank.append(field("LoRA rank of the fresh adapter", this.input("lora_rank"), rankHint));
    this.drawer = SpecKD.createDrawer(
      { id: `${this.id}-drawer`, button: this.settingsButton, note: "These take effect at the next Start." },
      this.pair.own,
      this.data.element,
      this.pasted,
      this.uploaded,
      this.responses.element,
      field("Learning rate", this.input("learning_rate"), "The highest; it warms up and then falls."),
      field("Examples a step", this.input("batch_size")),
      field(
        "β, weight of a rejected token",
        this.input("beta", this.knobs),
        "Of Top-k and Spec-k, for both racers. 0 masks it wholly.",
      ),
      this.rank,
      field("Seed", this.input("seed"), "Both racers start alike and see the same batches."),
    );
  }

  makeUpload() {
    const hidden = { class: "sk-hidden", tabindex: "-1", "aria-label": "Data file", "data-field": "file" };
    const file = el("input", { type: "file", accept: FILE_KINDS, ...hidden });
    const open = () => file.click();
    const choose = el("button", { type: "button", class: "sk-button", text: "Choose a file…", onclick: open });
    this.fileSays = el("p", { class: "sk-small sk-muted sk-file-says" });
    const form = `JSONL, one object a line: {"prompt": …, "response": …}, up to ${sizeOf(this.most)}.`;
    const how = el("p", { class: "sk-small sk-muted", text: `${form} It is read here and sent as text.` });
    this.uploaded = el("div", { class: "sk-given sk-uploaded", hidden: true }, choose, file, this.fileSays, how);
    file.addEventListener("change", () => {
      const [chosen] = file.files;
      file.value = "";
      if (chosen) this.readFile(chosen);
    });
  }

  async readFile(chosen) {
    const name = chosen.name.slice(0, 60);
    if (chosen.size > this.most) {
      const sizes = `has ${sizeOf(chosen.size)} and the limit here is ${sizeOf(this.most)}`;
      this.say("failed", `${name} ${sizes}: take fewer lines.`);
      return;
    }
    try {
      this.form.text = await chosen.text();
      this.fileName = name;
      this.show();
      this.onChange();
    } catch {
      this.say("failed", "The file could not be read here. Nothing was changed.");
    }
  }

  /* --- fields into the form ------------------------------------------------------------------------------------ */

  read() {
    const { form } = this;
    Object.assign(form, this.pair.read());
    this.readData();
    form.responses = this.responses.value();
    for (const name of this.table.numbers) form[name] = this.table.read(name, this.inputs[name]);
    const beta = this.fitting(this.inputs.beta, "beta", "beta");
    form.gates = this.racers.map((racer, i) => this.readRacer(racer, i, beta)).filter((spec) => spec !== null);
    this.arrange();
  }
  readData() {
    const { form } = this;
    const data = this.data.value();
    if (data === form.data) {
      if (data === "pasted") form.text = this.inputs.text.value;
      return;
    }
    form.text = "";
    this.fileName = "";
    const fromFile = ["file", "mixed"].includes(this.responses.value());
    if (data === "pasted" && fromFile) this.responses.choose("teacher"); // prompts alone have no answers
    if (data === "shipped" && form.data === "pasted") this.responses.choose(this.initial.responses);
    form.data = data;
  }
  readRacer({ gate, k, rate }, i, beta) {
    if (!gate.value) return null;
    if (gate.value === "random") {
      if (rate.value === "") rate.value = String(this.othersRate(i, beta));
      return `random:rate=${this.fitting(rate, "rate", `rate-${i}`)}:beta=${beta}`;
    }
    if (SpecKD.hasK(gate.value)) return `${gate.value}:k=${this.fitting(k, "k", `k-${i}`)}:beta=${beta}`;
    const before = this.form.gates[i];
    if (before && SpecKD.readGate(before).kind === gate.value) return before;
    return gate.selectedOptions[0].dataset.spec || gate.value;
  }
  /* Random tokens are a control where they keep as many as the other racer, at the same beta. */
  othersRate(i, beta) {
    const other = this.racers[1 - i];
    if (!SpecKD.hasK(other.gate.value)) return RATE;
    const share = this.rateOf(`${other.gate.value}:k=${this.proper[`k-${1 - i}`]}:beta=${beta}`);
    return share === null ? RATE : Number(share.toFixed(2));
  }
  /* What is in the field; while that is no proper value, the last one that was. */
  fitting(node, field, name) {
    const x = node.value === "" ? NaN : Number(node.value);
    const fits = this.knobs.fits(field, x);
    node.setAttribute("aria-invalid", String(!fits));
    if (fits) this.proper[name] = x;
    return this.proper[name];
  }

  /* --- the form into fields ------------------------------------------------------------------------------------ */

  show() {
    const { form } = this;
    this.pair.show(form);
    if (this.pair.select.selectedIndex < 0) this.pair.select.selectedIndex = 0;
    this.racers.forEach(({ gate, k, rate }, i) => {
      const known = SpecKD.readGate(form.gates[i]);
      gate.value = form.gates[i] ? known.kind : i ? "" : SpecKD.DEFAULT_KNOBS.gate;
      if (gate.selectedIndex < 0) gate.selectedIndex = 0;
      this.proper[`k-${i}`] = known.k || SpecKD.DEFAULT_KNOBS.k;
      k.value = String(this.proper[`k-${i}`]);
      k.setAttribute("aria-invalid", "false");
      rate.value = known.rate === undefined ? "" : String(known.rate);
      this.proper[`rate-${i}`] = known.rate ?? RATE;
    });
    const withBeta = form.gates.map(SpecKD.readGate).find((gate) => gate.beta !== undefined);
    this.proper.beta = withBeta ? withBeta.beta : SpecKD.DEFAULT_KNOBS.beta;
    this.inputs.beta.value = String(this.proper.beta);
    for (const name of this.table.numbers) this.table.show(this.inputs[name], form[name]);
    this.data.choose(form.data);
    this.responses.choose(form.responses);
    this.inputs.text.value = form.data === "pasted" ? form.text : "";
    this.arrange();
  }
  arrange() {
    this.pasted.hidden = this.form.data !== "pasted";
    this.uploaded.hidden = this.form.data !== "uploaded";
    this.fileSays.textContent = this.fileName
      ? `${this.fileName}, ${sizeOf(this.form.text.length)}`
      : SpecKD.tr("No file yet.");
    this.rank.hidden = !this.pair.isOwn() && this.pair.select.value !== "raw";
    for (const { gate, k, kBox, rateBox, node } of this.racers) {
      const withK = SpecKD.hasK(gate.value);
      rateBox.hidden = gate.value !== "random";
      kBox.hidden = !rateBox.hidden;
      kBox.classList.toggle("sk-gone", !withK);
      k.disabled = !withK;
      node.classList.toggle("sk-racer-none", !gate.value);
    }
  }

  /* --- the address --------------------------------------------------------------------------------------------- */

  toAddress() {
    const { form } = this;
    const params = this.table.toParams(form);
    params.set("gates", form.gates.join(","));
    if (form.data === "pasted" && form.text.length <= LONGEST_LINK) params.set("text", form.text);
    return params;
  }
  fromAddress(params) {
    const found = this.table.fromParams(params);
    const spelt = (spec) => /^\w+(:\w+=[\w.]*)*$/.test(spec);
    const gates = (params.get("gates") || "").split(",").filter(spelt).slice(0, 2);
    Object.assign(this.form, found, gates.length ? { gates } : {});
    if (this.form.data === "pasted" && params.has("text")) this.form.text = params.get("text");
    if (Object.keys(found).length || gates.length) this.show();
  }
}

SpecKD.createDistillControls = (options) => new DistillControls(options);
