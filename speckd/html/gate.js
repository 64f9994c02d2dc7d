/* The gate in a browser: nothing is computed here that Python computes, only compared, weighted and averaged.

   A trace carries, for every token, the smallest k that accepts it (a threshold) and its place under every other
   selector (a rank). So re-gating is one comparison a token, and no slider needs a server or a model. */

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
