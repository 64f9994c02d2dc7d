/* The comparison that is open: what it says, its runs' curves, its answers, its bite, and how to repeat it. */

const { el, tr, visible } = SpecKD;
/** @type {Record<string, string>} */
const OWN_TEXT = { own: "student", half: "mixed" }; // texts that the student writes as it trains
const SIDES = ["arm", "control"];
const meanOf = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;

/* Where Distill starts the same race: its own address. Null where the page's races know no such arm. */
SpecKD.raceAddress = function (cell, seed, race) {
  const gates = [cell.gate, cell.control];
  const known = gates.every((gate) => race.gates.includes(SpecKD.readGate(gate).kind));
  const { student, text, steps, batch_size: batch, learning_rate: rate } = cell.setting;
  if (!known || !race.students.includes(student)) return null;
  return {
    student,
    data: "shipped",
    responses: OWN_TEXT[text] || "file",
    steps: String(Math.min(steps, race.steps)),
    batch: String(Math.min(batch, race.batch)),
    lr: String(rate),
    seed: String(seed),
    gates: gates.join(","),
  };
};

class Opened {
  constructor({ id, race, copy }) {
    this.id = id;
    this.race = race;
    this.copy = copy;
    this.key = "";
    this.chosen = { curve: "acceptance", question: 0, seed: 0, writing: "greedy", side: "arm" };
    this.element = el("section", {
      class: "sk-map-card sk-map-opened",
      "aria-label": tr("The comparison that is open"),
    });
  }
  clear() {
    this.key = "";
    this.element.replaceChildren();
  }

  async show(one, control, ask) {
    const key = JSON.stringify([one.arm.key, control]);
    if (key !== this.key) {
      this.key = key;
      this.cell = null;
      this.element.classList.add("sk-map-waiting");
      const answer = await ask().catch(() => null);
      if (this.key !== key) return; // another one was opened meanwhile
      this.element.classList.remove("sk-map-waiting");
      if (!answer || !answer.cell) {
        this.key = "";
        this.element.replaceChildren(el("p", { text: SpecKD.told((answer && answer.error) || SpecKD.NO_ANSWER) }));
        return;
      }
      this.cell = JSON.parse(answer.cell);
      this.chosen.seed = Math.min(this.chosen.seed, this.cell.seeds.length - 1);
    }
    if (!this.cell) return;
    this.one = one;
    const curves = ["acceptance", "divergence", "tar"];
    if (curves.includes(one.figure)) this.chosen.curve = one.figure;
    this.write();
  }
  write() {
    const { one, cell } = this;
    const told = el("div", {}, ...this.head(), this.raceNode());
    const parts = [this.curves(), this.answers(), this.bite(), this.panel(), this.figures(), this.commands()];
    this.element.replaceChildren(told, ...parts.filter(Boolean));
    this.element.dataset.of = one.arm.key;
    this.element.dataset.seeds = String(cell.seeds.length);
  }
  nameOf(side) {
    return SpecKD.armName(side === "arm" ? this.cell.gate : this.cell.control);
  }
  mark(side) {
    return SpecKD.racerMark(SIDES.indexOf(side));
  }

  head() {
    const { arm, figure, cell } = this.one;
    const { control } = this.cell;
    const span = SpecKD.intervalWords(figure, cell);
    const figures = [
      span ? tr("95% interval {span}", { span }) : tr("no interval"),
      `${cell.n} ${tr("seeds")}`,
      cell.q === null ? "" : `q = ${SpecKD.figures(cell.q, 2)}`,
    ];
    const setting = SpecKD.settingWords(arm, ["student", "text", "objective", "learning_rate", "steps"]);
    const change = SpecKD.figureChange(figure, cell.mean, { unit: true });
    return [
      el(
        "h2",
        { class: "sk-map-title" },
        SpecKD.armName(arm.gate),
        el("small", { text: ` ${tr("against {control}", { control: SpecKD.controlName(control) })}` }),
      ),
      el("p", { class: "sk-small sk-muted", text: [SpecKD.partNames(arm), setting].filter(Boolean).join(": ") }),
      arm.screening ? el("p", { class: "sk-chip sk-chip-recorded", text: tr("screening") }) : null,
      el(
        "p",
        { class: "sk-map-verdict", "data-verdict": cell.verdict },
        `${SpecKD.figureName(figure)} `,
        el("b", { text: change }),
        `: ${SpecKD.verdictWords(figure, cell)}`,
      ),
      el("p", { class: "sk-small sk-muted", text: figures.filter(Boolean).join(", ") }),
    ];
  }
  raceNode() {
    const seed = this.cell.seeds[this.chosen.seed].seed;
    const asked = SpecKD.raceAddress(this.cell, seed, this.race);
    if (!asked) {
      const text = tr("The page’s own races know no such arm: the command below runs it.");
      return el("p", { class: "sk-small sk-muted", text });
    }
    const button = el("button", { type: "button", class: "sk-button sk-map-race", text: tr("Race this now") });
    button.addEventListener("click", () => SpecKD.address.go("distill", asked));
    const cut = this.cell.setting.steps > Number(asked.steps);
    const words = cut
      ? tr("in Distill, {steps} steps of {all}, on the prompts that ship", {
        steps: asked.steps,
        all: this.cell.setting.steps,
      })
      : tr("in Distill, on the prompts that ship");
    return el("p", { class: "sk-map-race-line" }, button, el("span", { class: "sk-small sk-muted", text: words }));
  }

  /* --- choices within ------------------------------------------------------------------------------------------ */

  select(field, label, choices) {
    const id = `${this.id}-in-${field}`;
    const options = Object.entries(choices).map(([value, text]) => {
      return el("option", { value, text, selected: String(this.chosen[field]) === value });
    });
    const input = el("select", { class: "sk-select sk-small", id, "data-field": field }, ...options);
    input.addEventListener("change", () => {
      this.chosen[field] = typeof this.chosen[field] === "number" ? Number(input.value) : input.value;
      this.write();
      /** @type {HTMLElement | null} */
      const again = this.element.querySelector(`#${id}`);
      if (again) again.focus();
    });
    return el("span", { class: "sk-field" }, el("label", { for: id, class: "sk-small", text: label }), input);
  }
  section(title, ...nodes) {
    return el("section", { class: "sk-map-part" }, el("h3", { text: title }), ...nodes);
  }
  legend() {
    const line = (side) =>
      el("span", { class: `sk-map-key sk-racer-${side === "arm" ? "a" : "b"}` }, this.mark(side), this.nameOf(side));
    return el("p", { class: "sk-small sk-map-who" }, ...SIDES.map(line));
  }

  /* --- curves of every seed ------------------------------------------------------------------------------------ */

  curves() {
    const names = {
      acceptance: SpecKD.figureName("acceptance"),
      divergence: SpecKD.figureName("divergence"),
      tar: SpecKD.figureName("tar5"),
    };
    const { curve } = this.chosen;
    const series = this.cell.seeds.flatMap((pair) =>
      SIDES.map((side) => ({ side, points: pointsOf(pair[side].held_out, curve) }))
    ).filter((one) => one.points.length > 1);
    const choice = this.select("curve", tr("Curves of every seed"), names);
    if (!series.length) return el("section", { class: "sk-map-part" }, choice, this.none());
    const means = SIDES.map((side) => ({ side, points: meanLine(series.filter((one) => one.side === side)) }));
    const write = (x) => (curve === "divergence" ? SpecKD.figures(x) : SpecKD.percent(x));
    const end = (i) => (means[i].points.length ? write(means[i].points.at(-1)[1]) : "–");
    const label = tr("{figure} by step: {arm} ends at {a}, {control} at {b}", {
      figure: names[curve],
      arm: this.nameOf("arm"),
      control: this.nameOf("control"),
      a: end(0),
      b: end(1),
    });
    const axes = { xLabel: tr("step"), yLabel: "", xText: (x) => String(x), yText: write };
    const drawn = means.filter((one) => one.points.length);
    const picture = SpecKD.lineChart({ label, series, means: drawn, names: axes });
    return el("section", { class: "sk-map-part" }, choice, picture, this.legend());
  }
  none() {
    return el("p", { class: "sk-small sk-muted", text: tr("Of these runs nothing more was kept than their figures.") });
  }

  /* --- what both write to the same question -------------------------------------------------------------------- */

  answers() {
    const { prompts, seeds } = this.cell;
    const { question, seed, writing } = this.chosen;
    const texts = (side) => (seeds[seed][side].texts || {})[writing] || [];
    if (!prompts.length || !texts("arm").length) return this.section(tr("Answers"), this.none());
    const numbered = Object.fromEntries(prompts.map((text, i) => [i, visible(text).slice(0, 60)]));
    const card = (side) =>
      el(
        "div",
        { class: "sk-map-answer" },
        el("p", { class: `sk-small sk-racer-${side === "arm" ? "a" : "b"}` }, this.mark(side), ` ${this.nameOf(side)}`),
        el("p", { class: "sk-map-text", dir: "auto", text: visible(texts(side)[question] || "–") }),
      );
    const ways = { greedy: tr("greedy"), own: tr("sampled") };
    return this.section(
      tr("What each student writes"),
      el(
        "div",
        { class: "sk-map-choices" },
        this.select("question", tr("Question"), numbered),
        this.select("seed", tr("Seed"), this.seedNames()),
        this.select("writing", tr("Written"), ways),
      ),
      el("p", { class: "sk-small", dir: "auto" }, el("q", { text: visible(prompts[question]) })),
      card("arm"),
      card("control"),
    );
  }
  seedNames() {
    return Object.fromEntries(this.cell.seeds.map((pair, i) => [i, `${pair.seed}, ${pair.device}`]));
  }

  /* --- what the gate really changed, and whom the others would have kept ---------------------------------------- */

  panels(side) {
    return this.cell.seeds.map((pair) => pair[side].panel || []).filter((panel) => panel.length === 3);
  }
  bite() {
    const panels = this.panels("arm").filter((panel) => panel.every((one) => one.bite));
    if (!panels.length) return null;
    const moments = [tr("before"), tr("half-way"), tr("after")];
    const line = (name, key, write) =>
      el(
        "tr",
        {},
        el("th", { scope: "row", text: name }),
        ...moments.map((_, i) => {
          return el("td", { class: "sk-num", text: write(meanOf(panels.map((panel) => panel[i].bite[key]))) });
        }),
      );
    const head = el(
      "tr",
      {},
      el("td", {}),
      ...moments.map((text) => el("th", { scope: "col", class: "sk-num", text })),
    );
    const body = el("tbody", {});
    body.append(
      line(tr("tokens weighed less"), "tokens", SpecKD.percent),
      line(tr("change of the plain gradient"), "gradient", SpecKD.percent),
      line(tr("cosine with the plain gradient"), "cosine", (x) => SpecKD.figures(x, 2)),
    );
    return this.section(
      tr("Bite: what the gate changed"),
      el("table", { class: "sk-figures" }, el("thead", {}, head), body),
    );
  }
  panel() {
    const own = ownSelector(this.cell.gate);
    const found = own ? jaccards(this.panels("arm"), own) : [];
    if (!found.length) return null;
    const body = el("tbody", {});
    for (const { other, before, after } of found) {
      body.append(SpecKD.shareBar(tr(OTHERS[other] || other), after, { before }));
    }
    const words = tr("Jaccard with the tokens that {arm} keeps, at the end of the run; the mark is where it began.", {
      arm: tr(OTHERS[own]),
    });
    return this.section(
      tr("Whom the others would have kept"),
      el("table", { class: "sk-bars" }, body),
      el("p", { class: "sk-small sk-muted", text: words }),
    );
  }

  /* --- every figure, and the commands ---------------------------------------------------------------------------- */

  figures() {
    const heads = [tr("figure"), this.nameOf("arm"), this.nameOf("control"), tr("difference")];
    const head = el("tr", {}, ...heads.map((text, i) => el("th", { scope: "col", class: i ? "sk-num" : "", text })));
    const body = el("tbody", {});
    for (const [name, cell] of Object.entries(this.one.arm.figures)) {
      const [mine, theirs] = this.cell.means[name] || [null, null];
      const sure = { helps: ` ● ${tr("better")}`, hurts: ` ● ${tr("worse")}` }[cell.verdict] || "";
      body.append(el(
        "tr",
        {},
        el("th", { scope: "row", text: SpecKD.figureName(name) }),
        el("td", { class: "sk-num", text: SpecKD.figureValue(name, mine) }),
        el("td", { class: "sk-num", text: SpecKD.figureValue(name, theirs) }),
        el("td", { class: "sk-num", text: SpecKD.figureChange(name, cell.mean) + sure }),
      ));
    }
    const table = el("table", { class: "sk-figures sk-map-all" }, el("thead", {}, head), body);
    const about = { class: "sk-scroll", tabindex: "0", role: "region", "aria-label": tr("Every figure of these runs") };
    return el(
      "details",
      { class: "sk-map-part" },
      el("summary", { text: tr("Every figure of these runs") }),
      el("div", about, table),
    );
  }
  commands() {
    const pair = this.cell.seeds[this.chosen.seed];
    const sides = { arm: this.nameOf("arm"), control: this.nameOf("control") };
    const { command } = pair[this.chosen.side];
    const copy = el("button", { type: "button", class: "sk-button sk-quiet sk-small", text: tr("Copy") });
    const [done, otherwise] = [tr("The command is copied."), tr("select it and copy by hand.")];
    copy.addEventListener("click", () => this.copy(command, done, otherwise));
    const choices = [this.select("side", tr("Arm"), sides), this.select("seed", tr("Seed"), this.seedNames())];
    return this.section(
      tr("Repeat it in a shell"),
      el("div", { class: "sk-map-choices" }, ...choices, copy),
      el("code", { class: "sk-command", tabindex: "0", text: visible(command) }),
    );
  }
}

/** @type {Record<string, string>} */
const OTHERS = {
  topk: "Top-k",
  speck: "Spec-k",
  clip: "clipping",
  random: "random tokens",
  first: "the first tokens",
  student_entropy: "student entropy",
  adakd: "AdaKD",
  tip: "TIP",
};

/* The selector of the shadow panel that an arm itself is. */
function ownSelector(gate) {
  const { kind } = SpecKD.readGate(gate);
  if (kind === "matched") return (/by=(\w+)/.exec(gate) || [])[1] || null;
  const found = { topk_schedule: "topk" }[kind] || kind;
  return Object.hasOwn(OTHERS, found) ? found : null;
}
/* Mean overlap of each other selector with one, at the start and at the end. */
function jaccards(panels, own) {
  const pairs = new Map();
  for (const panel of panels) {
    for (const [name, after] of Object.entries(panel[2].jaccard)) {
      const both = name.split("/");
      const other = both.find((one) => one !== own);
      if (!both.includes(own) || !other) continue;
      const known = pairs.get(other) || { before: [], after: [] };
      known.before.push(panel[0].jaccard[name]);
      known.after.push(after);
      pairs.set(other, known);
    }
  }
  return [...pairs].map(([other, { before, after }]) => ({ other, before: meanOf(before), after: meanOf(after) }))
    .sort((a, b) => b.after - a.after);
}
function pointsOf(heldOut, curve) {
  if (!heldOut || !heldOut[curve]) return [];
  return heldOut.step.map((step, i) => [step, heldOut[curve][i]]).filter(([, value]) => Number.isFinite(value));
}
/* The mean over seeds at each step that all of them reached. */
function meanLine(series) {
  if (!series.length) return [];
  const steps = series[0].points.map(([step]) => step);
  const at = (one, step) => one.points.find(([other]) => other === step);
  return steps.filter((step) => series.every((one) => at(one, step)))
    .map((step) => [step, meanOf(series.map((one) => at(one, step)[1]))]);
}

SpecKD.createOpened = (options) => new Opened(options);
