/* Where gradio and the parts meet. Gradio hands over its own reactive copy of the data; each part gets a plain one. */
const plain = (value) => (value === null || value === undefined ? {} : JSON.parse(JSON.stringify(value)));
const parsed = (value) => (typeof value === "string" ? JSON.parse(value) : value);

const WHOLE = ["inspector", "distiller", "decoder", "mapper", "learner"];
const parts = {
  strip(root, options) {
    const picture = SpecKD.createPicture({ onPin: (token) => options.trigger("pin", { token }) });
    if (options.controls) {
      const controls = SpecKD.createControls({
        knobs: picture.state.knobs,
        onChange: (change) => picture.setKnobs(change),
      });
      root.append(controls.primary, controls.secondary);
      picture.add(controls);
    }
    picture.add(
      SpecKD.createStrip(root, {
        onPin: (t) => picture.pin(t),
        onHover: (t) => picture.hover(t),
        label: options.label || "Response",
      }),
    );
    if (options.verdict) {
      const verdict = SpecKD.createVerdict(root);
      picture.add({ setShown: (t, state) => verdict.show(state.trace, t, state.gated, state.knobs) });
    }
    return (value) => {
      if (value.knobs) picture.setKnobs(value.knobs);
      if (value.trace) picture.setTrace(SpecKD.readTrace(value.trace), { pin: value.pin ?? null });
      else if (value.pin !== undefined && value.pin !== null) picture.pin(value.pin, false);
    };
  },
  plot(root, options) {
    const plot = SpecKD.createPlot(root, { src: options.plotly, height: options.height });
    return (value) => value.figure && plot.show(parsed(value.figure), value.height);
  },
  inspector: (root, options) => SpecKD.createInspector(root, options),
  distiller: (root, options) => SpecKD.createDistiller(root, options),
  decoder: (root, options) => SpecKD.createDecoder(root, options),
  mapper: (root, options) => SpecKD.createMapper(root, options),
  learner: (root, options) => SpecKD.createLearner(root, options),
};

SpecKD.make = (part, root, options) => parts[part](root, options);

SpecKD.mount = function (part, element, props, trigger, server, watch) {
  const root = element.querySelector(".sk-panel");
  const make = () => {
    const early = SpecKD.adopt(part, root, { trigger, server });
    const update = early || SpecKD.make(part, root, { ...plain(props.options), trigger, server });
    const read = () => update(plain(props.value));
    watch("value", read);
    if (!early) read();
  };
  // A whole page in a tab that is not open costs the first picture nothing: it is made when its tab is.
  if (root.getClientRects().length || !WHOLE.includes(part)) make();
  else SpecKD.seen(root).then(make);
};
