/* The gate's own controls: kind, k, beta and divergence; and what they do to the loss. Native inputs, so that keyboard,
   touch and a screen reader work as everywhere. */

const { el, percent, format } = SpecKD;
let serial = 0;

class GateControls {
  /** @param {Parameters<SpecKDParts["createControls"]>[0]} options */
  constructor({ knobs, onChange }) {
    this.onChange = onChange;
    this.id = `sk-controls-${++serial}`;
    this.last = knobs;
    this.primary = this.makePrimary();
    this.secondary = this.makeSecondary();
    this.show(knobs);
  }

  makePrimary() {
    this.kinds = el("div", { class: "sk-segments", role: "radiogroup", "aria-label": "Gate" });
    for (const [name, gate] of Object.entries(SpecKD.GATES)) {
      const id = `${this.id}-${name}`;
      const input = el("input", { type: "radio", name: `${this.id}-gate`, value: name, id });
      input.addEventListener("change", () => this.onChange({ gate: name }));
      this.kinds.append(input, el("label", { for: id, title: "Accepted when " + gate.says, text: gate.label }));
    }
    const id = `${this.id}-k`;
    const about = { id, class: "sk-slider", "aria-label": `k, from 1 to ${SpecKD.K_MAX}` };
    this.k = el("input", { type: "range", min: 1, max: SpecKD.K_MAX, step: 1, ...about });
    this.k.addEventListener("input", () => this.onChange({ k: Number(this.k.value) }));
    this.kShown = el("output", { for: id, class: "sk-k-value" });
    const symbol = el("span", { class: "sk-symbol", text: "k" });
    this.kBox = el("label", { class: "sk-k", for: id }, symbol, this.k, this.kShown);
    this.tar = el("output", { class: "sk-tar-value" });
    const name = el("span", { class: "sk-tar-name" }, el("abbr", { title: "token acceptance rate", text: "TAR" }));
    const says = "Token acceptance rate: the share of tokens that the gate accepts";
    return el(
      "div",
      { class: "sk-controls" },
      this.kinds,
      this.kBox,
      el("div", { class: "sk-tar", title: says }, name, this.tar),
    );
  }

  makeSecondary() {
    const id = `${this.id}-beta`;
    const range = { min: 0, max: 1, step: 0.01, inputmode: "decimal" };
    this.beta = el("input", { type: "number", ...range, id, class: "sk-number" });
    this.beta.addEventListener("input", () => {
      const value = this.beta.value === "" ? NaN : Number(this.beta.value);
      const fits = value >= 0 && value <= 1;
      this.beta.setAttribute("aria-invalid", String(!fits));
      if (fits) this.onChange({ beta: value });
    });
    this.beta.addEventListener("blur", () => this.show(this.last));
    this.betaHint = el("span", { class: "sk-muted sk-beta-hint" });
    this.divergence = el("select", { id: `${this.id}-divergence`, class: "sk-select" });
    for (const [name, kind] of Object.entries(SpecKD.DIVERGENCES)) {
      this.divergence.append(el("option", { value: name, text: kind.long }));
    }
    this.divergence.addEventListener("change", () => this.onChange({ divergence: this.divergence.value }));
    this.loss = el("output", { class: "sk-loss" });
    const symbol = el("span", { class: "sk-symbol", text: "β" });
    const weight = el("span", {}, symbol, " weight of a rejected token");
    return el(
      "div",
      { class: "sk-controls-more" },
      el("label", { for: id, class: "sk-field", title: "The weight of a rejected token" }, weight, this.beta),
      this.betaHint,
      el("label", { for: this.divergence.id, class: "sk-field" }, el("span", { text: "divergence" }), this.divergence),
      this.loss,
    );
  }

  show(knobs) {
    this.last = knobs;
    for (const input of this.kinds.querySelectorAll("input")) input.checked = input.value === knobs.gate;
    this.k.value = String(knobs.k);
    this.k.disabled = knobs.gate === "none";
    this.k.setAttribute("aria-valuetext", `k = ${knobs.k}`);
    this.k.style.setProperty("--at", `${((knobs.k - 1) / (SpecKD.K_MAX - 1)) * 100}%`);
    this.kShown.textContent = String(knobs.k);
    this.kBox.classList.toggle("sk-off", knobs.gate === "none");
    const typing = document.activeElement === this.beta && Number(this.beta.value) === knobs.beta;
    if (!typing) this.beta.value = String(knobs.beta);
    this.beta.setAttribute("aria-invalid", "false");
    this.betaHint.textContent = knobs.beta === 0 ? "hard mask" : "";
    this.divergence.value = knobs.divergence;
  }

  paint(gated, knobs) {
    this.show(knobs);
    this.tar.textContent = percent(gated.tar);
    const { kind } = SpecKD.DIVERGENCES[knobs.divergence];
    const part = (name, text) =>
      el("span", { class: "sk-loss-part" }, el("span", { class: "sk-muted", text: name + " " }), el("b", { text }));
    this.loss.replaceChildren(
      part("plain loss", format(gated.plain, kind, { unit: true })),
      part("gated", format(gated.gated, kind, { unit: true })),
      part("masked away", isFinite(gated.masked) ? percent(Math.max(0, gated.masked)) : "–"),
    );
  }
}

SpecKD.createControls = (options) => new GateControls(options);
