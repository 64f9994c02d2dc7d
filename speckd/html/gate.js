/* The gate in a browser: nothing is computed here that Python computes, only compared, weighted and averaged.

   A trace carries, for every token, the smallest k that accepts it (a threshold) and its place under every other
   selector (a rank). So re-gating is one comparison a token, and no slider needs a server or a model. */
(function () {
  "use strict";
  const SpecKD = (window.SpecKD = window.SpecKD || {});

  SpecKD.GATES = {
    topk: { label: "Top-k", column: "topk_threshold", says: "the student's proposal is among the teacher's k likeliest" },
    speck: { label: "Spec-k", column: "speck_threshold", says: "one of k draws from the student passes its coin" },
    none: { label: "All open", column: null, says: "every token counts in full (plain distillation)" },
  };
  SpecKD.DIVERGENCES = {
    forward_kl: { label: "forward KL", long: "forward KL(p‖q)", unit: "nats" },
    reverse_kl: { label: "reverse KL", long: "reverse KL(q‖p)", unit: "nats" },
    jsd: { label: "JSD", long: "Jensen-Shannon", unit: "nats" },
    skew_kl: { label: "skew KL", long: "skew KL, α = 0.1", unit: "nats" },
    skew_reverse_kl: { label: "skew reverse KL", long: "skew reverse KL, α = 0.1", unit: "nats" },
    tvd: { label: "total variation", long: "total variation", unit: "" },
  };
  SpecKD.SELECTORS = {
    adakd: { label: "AdaKD", says: "largest Hellinger distance first" },
    student_entropy: { label: "student entropy", says: "the student's most uncertain tokens first" },
    teacher_entropy_low: { label: "teacher entropy, low", says: "the teacher's surest tokens first" },
    teacher_entropy_high: { label: "teacher entropy, high", says: "the teacher's least sure tokens first" },
    random: { label: "random", says: "any tokens: the control" },
  };
  SpecKD.DEFAULT_KNOBS = { gate: "topk", k: 5, beta: 0.01, divergence: "forward_kl" };
  SpecKD.K_MAX = 50;

  /* JSON has no infinity: Python writes the string "inf". */
  SpecKD.readTrace = function (source) {
    const trace = typeof source === "string" ? JSON.parse(source) : source;
    for (const name of Object.keys(trace.divergence)) {
      trace.divergence[name] = trace.divergence[name].map((d) => (d === "inf" ? Infinity : d));
    }
    return trace;
  };

  const mean = (values) => {
    let sum = 0;
    for (let t = 0; t < values.length; t++) sum += values[t];
    return values.length ? sum / values.length : 0;
  };
  /* A token of weight 0 is not there, however large its divergence: 0 x infinity is 0 here, as in Python. */
  const share = (weight, d) => (weight === 0 ? 0 : weight * d);

  SpecKD.regate = function (trace, knobs) {
    const n = trace.tokens.length;
    const column = SpecKD.GATES[knobs.gate].column;
    const threshold = column ? trace[column] : null;
    const divergence = trace.divergence[knobs.divergence];
    const accepted = new Uint8Array(n);
    const weights = new Float64Array(n);
    const shares = new Float64Array(n);
    for (let t = 0; t < n; t++) {
      accepted[t] = threshold === null || threshold[t] <= knobs.k ? 1 : 0;
      weights[t] = accepted[t] ? 1 : knobs.beta;
      shares[t] = share(weights[t], divergence[t]);
    }
    const plain = mean(divergence);
    const gated = mean(shares);
    const masked = plain > 0 && isFinite(plain) ? 1 - gated / plain : NaN;
    return { accepted, weights, shares, divergence, tar: mean(accepted), plain, gated, masked, n };
  };

  /* Three acceptance probabilities that are easily taken for one another. */
  SpecKD.acceptanceOfOneDraw = (trace, t) => 1 - trace.divergence.tvd[t];
  SpecKD.acceptanceOfAnyDraw = (trace, t, k) => 1 - Math.pow(trace.divergence.tvd[t], k);

  /* The budget of a fraction of n tokens, and the tokens that a ranking keeps within it. */
  SpecKD.budget = (fraction, n) => (fraction > 0 ? Math.max(1, Math.floor(fraction * n + 0.5)) : 0);
  SpecKD.keep = (ranks, budget) => Uint8Array.from(ranks, (rank) => (rank <= budget ? 1 : 0));
  SpecKD.jaccard = function (a, b) {
    let both = 0;
    let either = 0;
    for (let t = 0; t < a.length; t++) {
      both += a[t] & b[t];
      either += a[t] | b[t];
    }
    return either ? both / either : 1;
  };
  SpecKD.keptShare = function (divergence, kept) {
    const all = mean(divergence);
    return all > 0 && isFinite(all) ? mean(divergence.map((d, t) => share(kept[t], d))) / all : NaN;
  };

  /* --- numbers and text, as every part shows them ------------------------------------------------------------- */

  SpecKD.number = function (x, digits = 3) {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    if (!isFinite(x)) return x > 0 ? "∞" : "−∞";
    const size = Math.abs(x);
    if (size === 0) return "0";
    if (size < 0.0005) return x.toExponential(1).replace("e-", "e−").replace("-", "−");
    if (size >= 1000) return Math.round(x).toLocaleString("en");
    return String(Number(x.toPrecision(digits)));
  };
  SpecKD.percent = function (x) {
    if (x === null || x === undefined || !isFinite(x)) return "–";
    const p = 100 * x;
    if (p !== 0 && p < 0.1) return "<0.1%";
    if (p > 99.95 && p < 100) return ">99.9%";
    return (p >= 9.95 || p === 0 ? p.toFixed(0) : p.toFixed(1)) + "%";
  };
  SpecKD.ordinal = function (n) {
    const rest = n % 100;
    const suffix = rest > 10 && rest < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th";
    return n.toLocaleString("en") + suffix;
  };

  /* What can't be seen is shown by name; nothing else is changed. Always set with textContent. */
  const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
  SpecKD.visible = (text) =>
    text.replace(INVISIBLE, (c) => {
      if (c === "\n") return "↵";
      if (c === "\r") return "␍";
      if (c === "\t") return "⇥";
      const code = c.charCodeAt(0);
      return code < 32 ? String.fromCharCode(0x2400 + code) : "⟨U+" + code.toString(16).toUpperCase().padStart(4, "0") + "⟩";
    });
  SpecKD.shown = function (text) {
    if (text === "") return "∅";
    if (/^ +$/.test(text)) return "␣".repeat(Math.min(text.length, 4)) + (text.length > 4 ? "×" + text.length : "");
    return SpecKD.visible(text.replace(/^ +| +$/g, ""));
  };
  SpecKD.spoken = function (text) {
    if (text === "") return "empty token";
    if (/^ +$/.test(text)) return text.length === 1 ? "space" : text.length + " spaces";
    return SpecKD.visible(text.trim() || text).replace(/↵/g, "newline ").replace(/⇥/g, "tab ").trim();
  };
  SpecKD.tokenText = (trace, id) => {
    const text = trace.strings[id];
    return text === undefined ? "#" + id : text;
  };

  /* Small DOM builder: text is text, never markup. */
  SpecKD.el = function (tag, attributes, ...children) {
    const node = document.createElement(tag);
    return fill(node, attributes, children);
  };
  SpecKD.svg = function (tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    return fill(node, attributes, children);
  };
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === false || value === null || value === undefined) continue;
      if (name === "text") node.textContent = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children) if (child !== null && child !== undefined) node.append(child);
    return node;
  }
})();
