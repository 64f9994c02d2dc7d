/* The gate's own controls: kind, k, beta and divergence; and what they do to the loss. Native inputs, so that keyboard,
   touch and a screen reader work as everywhere. */
let serial = 0;

SpecKD.createControls = function ({ knobs, onChange }) {
  const { el, number, percent } = SpecKD;
  const id = `sk-controls-${++serial}`;

  const kinds = el("div", { class: "sk-segments", role: "radiogroup", "aria-label": "Gate" });
  for (const [name, gate] of Object.entries(SpecKD.GATES)) {
    const input = el("input", {
      type: "radio",
      name: `${id}-gate`,
      value: name,
      id: `${id}-${name}`,
      onchange: () => onChange({ gate: name }),
    });
    kinds.append(input, el("label", { for: `${id}-${name}`, title: "Accepted when " + gate.says, text: gate.label }));
  }
  const k = el("input", {
    type: "range",
    min: 1,
    max: SpecKD.K_MAX,
    step: 1,
    id: `${id}-k`,
    class: "sk-slider",
    "aria-label": "k, from 1 to 50",
  });
  const kShown = el("output", { for: `${id}-k`, class: "sk-k-value" });
  k.addEventListener("input", () => onChange({ k: Number(k.value) }));
  const kBox = el(
    "label",
    { class: "sk-k", for: `${id}-k` },
    el("span", { class: "sk-symbol", text: "k" }),
    k,
    kShown,
  );
  const tar = el("output", { class: "sk-tar-value" });
  const tarBox = el(
    "div",
    { class: "sk-tar", title: "Token acceptance rate: the share of tokens that the gate accepts" },
    el("span", { class: "sk-tar-name" }, el("abbr", { title: "token acceptance rate", text: "TAR" })),
    tar,
  );
  const primary = el("div", { class: "sk-controls" }, kinds, kBox, tarBox);

  const beta = el("input", {
    type: "number",
    min: 0,
    max: 1,
    step: 0.01,
    id: `${id}-beta`,
    class: "sk-number",
    inputmode: "decimal",
  });
  beta.addEventListener("input", () => {
    const value = beta.value === "" ? NaN : Number(beta.value);
    const fits = value >= 0 && value <= 1;
    beta.setAttribute("aria-invalid", String(!fits));
    if (fits) onChange({ beta: value });
  });
  beta.addEventListener("blur", () => show(last));
  const betaHint = el("span", { class: "sk-muted sk-beta-hint" });
  const divergence = el("select", { id: `${id}-divergence`, class: "sk-select" });
  for (const [name, kind] of Object.entries(SpecKD.DIVERGENCES)) {
    divergence.append(el("option", { value: name, text: kind.long }));
  }
  divergence.addEventListener("change", () => onChange({ divergence: divergence.value }));
  const loss = el("output", { class: "sk-loss" });
  const secondary = el(
    "div",
    { class: "sk-controls-more" },
    el(
      "label",
      { for: `${id}-beta`, class: "sk-field", title: "The weight of a rejected token" },
      el("span", {}, el("span", { class: "sk-symbol", text: "β" }), " weight of a rejected token"),
      beta,
    ),
    betaHint,
    el("label", { for: `${id}-divergence`, class: "sk-field" }, el("span", { text: "divergence" }), divergence),
    loss,
  );

  let last = knobs;
  function show(next) {
    last = next;
    for (const input of kinds.querySelectorAll("input")) input.checked = input.value === next.gate;
    k.value = String(next.k);
    k.disabled = next.gate === "none";
    k.setAttribute("aria-valuetext", `k = ${next.k}`);
    k.style.setProperty("--at", `${((next.k - 1) / (SpecKD.K_MAX - 1)) * 100}%`);
    kShown.textContent = String(next.k);
    kBox.classList.toggle("sk-off", next.gate === "none");
    if (document.activeElement !== beta || Number(beta.value) !== next.beta) beta.value = String(next.beta);
    beta.setAttribute("aria-invalid", "false");
    betaHint.textContent = next.beta === 0 ? "hard mask" : "";
    divergence.value = next.divergence;
  }
  function paint(gated, next) {
    show(next);
    const kind = SpecKD.DIVERGENCES[next.divergence];
    const unit = kind.unit ? " " + kind.unit : "";
    tar.textContent = percent(gated.tar);
    const part = (name, value) =>
      el(
        "span",
        { class: "sk-loss-part" },
        el("span", { class: "sk-muted", text: name + " " }),
        el("b", { text: value }),
      );
    loss.replaceChildren(
      part("plain loss", number(gated.plain) + unit),
      part("gated", number(gated.gated) + unit),
      part("masked away", isFinite(gated.masked) ? percent(Math.max(0, gated.masked)) : "–"),
    );
  }
  show(knobs);
  return { primary, secondary, paint, show };
};
