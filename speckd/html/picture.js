/* One text under one gate, and everything that shows it: the parts share a trace, the knobs, a cursor and a pin.

   A part is an object with any of setTrace(trace), paint(gated, knobs), setCursor(t), setPinned(t). Parts marked late
   are painted after the next frame, so that the strip answers a slider first. Nothing here is global: a page may hold
   several pictures, and each keeps its own state. */
const AFTER_PAINT = 6; // milliseconds after a frame's scripts: by then the browser has painted it

class ThePicture {
  /** @param {Parameters<SpecKDParts["createPicture"]>[0]} options */
  constructor({ knobs = {}, onKnobs = () => {}, onPin = () => {} } = {}) {
    this.onKnobs = onKnobs;
    this.onPin = onPin;
    this.parts = [];
    /** @type {PictureState} */
    this.state = {
      trace: null,
      knobs: { ...SpecKD.DEFAULT_KNOBS, ...knobs },
      gated: null,
      pinned: -1,
      hovered: -1,
      painted: null,
    };
    this.frame = 0;
    this.timer = 0;
  }

  add(part, { late = false } = {}) {
    this.parts.push({ part, late });
    if (this.state.trace) {
      if (part.setTrace) part.setTrace(this.state.trace);
      if (part.paint) part.paint(this.state.gated, this.state.knobs);
      if (part.setPinned) part.setPinned(this.state.pinned);
      if (part.setShown) part.setShown(this.shownToken(), this.state);
    }
    return part;
  }

  each(method, ...args) {
    for (const { part } of this.parts) if (part[method]) part[method](...args);
  }

  shownToken() {
    return this.state.hovered >= 0 ? this.state.hovered : this.state.pinned;
  }

  setTrace(trace, { pin = null } = {}) {
    this.state.trace = trace;
    this.state.gated = SpecKD.regate(trace, this.state.knobs);
    this.state.hovered = -1;
    this.each("setTrace", trace);
    for (const { part, late } of this.parts) if (part.paint && !late) part.paint(this.state.gated, this.state.knobs);
    this.later();
    const wanted = pin !== null && pin >= 0 && pin < trace.tokens.length ? pin : this.mostTelling();
    this.pin(wanted, false);
  }

  /* Where the gate takes most of the loss away; the first token when it takes nothing. */
  mostTelling() {
    let best = 0;
    let most = 0;
    this.state.gated.divergence.forEach((d, t) => {
      const lost = this.state.gated.accepted[t] ? 0 : d;
      if (lost > most) [best, most] = [t, lost];
    });
    return best;
  }

  setKnobs(change) {
    const started = performance.now();
    Object.assign(this.state.knobs, change);
    if (!this.state.trace) return;
    this.state.gated = SpecKD.regate(this.state.trace, this.state.knobs);
    for (const { part, late } of this.parts) if (part.paint && !late) part.paint(this.state.gated, this.state.knobs);
    this.each("setShown", this.shownToken(), this.state);
    this.later();
    this.state.painted = performance.now() - started; // milliseconds of script for the parts that answer at once
    this.onKnobs(this.state.knobs);
  }

  later() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.frame = requestAnimationFrame(() => {
      this.timer = setTimeout(() => {
        for (const { part, late } of this.parts) {
          if (part.paint && late && this.state.trace) part.paint(this.state.gated, this.state.knobs);
        }
      }, AFTER_PAINT);
    });
  }

  hover(t) {
    if (!this.state.trace || t === this.state.hovered) return;
    this.state.hovered = t;
    this.each("setCursor", t);
    this.each("setShown", this.shownToken(), this.state);
  }

  pin(t, tell = true) {
    if (!this.state.trace) return;
    this.state.pinned = t;
    this.each("setPinned", t);
    this.each("setShown", this.shownToken(), this.state);
    if (tell) this.onPin(t);
  }

  clear() {
    this.state.trace = this.state.gated = null;
    this.state.pinned = this.state.hovered = -1;
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
  }
}

SpecKD.createPicture = (options) => new ThePicture(options);
