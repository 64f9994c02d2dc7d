/* The downloaded page: the trace in the file, the strip, the verdict, the gate's controls and the comparison. */
const { el } = SpecKD;

SpecKD.legend = () => {
  const sample = (kind, text) => el("span", { class: `sk-token sk-${kind}`, text: SpecKD.tr(text) });
  return el(
    "div",
    { class: "sk-legend" },
    el("span", {}, sample("accepted", "accepted")),
    el("span", {}, sample("rejected", "rejected")),
    el(
      "span",
      {},
      "fill: one random draw’s chance, 1 − TVD  0 ",
      el("span", { class: "sk-ramp", "aria-hidden": "true" }),
      " 1",
    ),
  );
};

SpecKD.madeBy = (config) => {
  const sources = { teacher: "teacher", student: "student", given: "given text" };
  const how = config.source === "given" ? "" : config.do_sample ? ", sampled" : ", greedy";
  const steered = (config.prefix_ids || []).length;
  const first = steered ? `; steered: its first ${steered} tokens were chosen by hand` : "";
  return `${config.student} student, ${config.teacher} teacher; response from the ${
    sources[config.source] || config.source
  }${how}${first}; temperature ${config.temperature}, seed ${config.seed}`;
};

SpecKD.showAlone = function (root, trace, { knobs = {}, pin = null } = {}) {
  const picture = SpecKD.createPicture({ knobs });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => document.body.classList.toggle("dark", dark.matches);
  theme();
  dark.addEventListener("change", () => {
    theme();
    compare.repaint();
  });

  const controls = SpecKD.createControls({
    knobs: picture.state.knobs,
    onChange: (change) => picture.setKnobs(change),
  });
  const main = el("div", { class: "sk-main" });
  const side = el("div", {});
  const page = el(
    "main",
    { class: "sk-page" },
    el(
      "header",
      {},
      el("p", { class: "sk-small sk-muted", text: "SpecKD Lab: which tokens the gate lets the loss see" }),
      el("h1", { class: "sk-question", dir: "auto", text: SpecKD.visible(trace.prompt) }),
    ),
    el("div", { class: "sk-bar-line" }, controls.primary, controls.secondary),
    el("div", { class: "sk-columns" }, main, side),
  );
  root.replaceChildren(page);
  const strip = SpecKD.createStrip(main, { onPin: (t) => picture.pin(t), onHover: (t) => picture.hover(t) });
  const legend = SpecKD.legend();
  legend.append(SpecKD.interlinearSwitch(strip));
  main.append(legend);
  const verdict = SpecKD.createVerdict(side);
  const below = el("div", { class: "sk-below" });
  main.append(below);
  const { speckd, torch, transformers } = trace.config;
  const made = `${
    SpecKD.madeBy(trace.config)
  }. Made with speckd ${speckd}, torch ${torch}, transformers ${transformers}.`;
  page.append(el("p", { class: "sk-small sk-muted", text: made }));
  const compare = SpecKD.createCompare(below, { onPin: (t) => picture.pin(t), onHover: (t) => picture.hover(t) });
  picture.add(controls);
  picture.add(strip);
  picture.add({ setShown: (t, state) => verdict.show(state.trace, t, state.gated, state.knobs) });
  picture.add(compare, { late: true });
  picture.setTrace(trace, { pin });
  return picture;
};
