/* One text under one gate, and everything that shows it: the parts share a trace, the knobs, a cursor and a pin.

   A part is an object with any of setTrace(trace), paint(gated, knobs), setCursor(t), setPinned(t). Parts marked late
   are painted after the next frame, so that the strip answers a slider first. Nothing here is global: a page may hold
   several pictures, and each keeps its own state. */
const AFTER_PAINT = 6; // milliseconds after a frame's scripts: by then the browser has painted it

SpecKD.createPicture = function ({ knobs = {}, onKnobs = () => {}, onPin = () => {} } = {}) {
  const parts = [];
  const state = {
    trace: null,
    knobs: { ...SpecKD.DEFAULT_KNOBS, ...knobs },
    gated: null,
    pinned: -1,
    hovered: -1,
    painted: null,
  };
  let frame = 0;
  let timer = 0;

  function add(part, { late = false } = {}) {
    parts.push({ part, late });
    if (state.trace) {
      if (part.setTrace) part.setTrace(state.trace);
      if (part.paint) part.paint(state.gated, state.knobs);
      if (part.setPinned) part.setPinned(state.pinned);
      if (part.setShown) part.setShown(shownToken(), state);
    }
    return part;
  }
  const each = (method, ...args) => {
    for (const { part } of parts) if (part[method]) part[method](...args);
  };
  const shownToken = () => (state.hovered >= 0 ? state.hovered : state.pinned);

  function setTrace(trace, { pin = null } = {}) {
    state.trace = trace;
    state.gated = SpecKD.regate(trace, state.knobs);
    state.hovered = -1;
    each("setTrace", trace);
    for (const { part, late } of parts) if (part.paint && !late) part.paint(state.gated, state.knobs);
    later();
    const wanted = pin !== null && pin >= 0 && pin < trace.tokens.length ? pin : mostTelling();
    setPinned(wanted, false);
  }

  /* Where the gate takes most of the loss away; the first token when it takes nothing. */
  function mostTelling() {
    let best = 0;
    let most = 0;
    state.gated.divergence.forEach((d, t) => {
      const lost = state.gated.accepted[t] ? 0 : d;
      if (lost > most) [best, most] = [t, lost];
    });
    return best;
  }

  function setKnobs(change) {
    const started = performance.now();
    Object.assign(state.knobs, change);
    if (!state.trace) return;
    state.gated = SpecKD.regate(state.trace, state.knobs);
    for (const { part, late } of parts) if (part.paint && !late) part.paint(state.gated, state.knobs);
    each("setShown", shownToken(), state);
    later();
    state.painted = performance.now() - started; // milliseconds of script for the parts that answer at once
    onKnobs(state.knobs);
  }
  function later() {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = requestAnimationFrame(() => {
      timer = setTimeout(() => {
        for (const { part, late } of parts) {
          if (part.paint && late && state.trace) part.paint(state.gated, state.knobs);
        }
      }, AFTER_PAINT);
    });
  }

  function hover(t) {
    if (!state.trace || t === state.hovered) return;
    state.hovered = t;
    each("setCursor", t);
    each("setShown", shownToken(), state);
  }
  function setPinned(t, tell = true) {
    if (!state.trace) return;
    state.pinned = t;
    each("setPinned", t);
    each("setShown", shownToken(), state);
    if (tell) onPin(t);
  }
  function clear() {
    state.trace = state.gated = null;
    state.pinned = state.hovered = -1;
    cancelAnimationFrame(frame);
    clearTimeout(timer);
  }

  return { state, add, setTrace, setKnobs, hover, pin: setPinned, clear };
};
