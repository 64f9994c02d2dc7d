/* The first script: the parts' common name, and the table of words that Python sends (speckd/words.py). */

globalThis.SpecKD = globalThis.SpecKD || /** @type {any} */ ({});

SpecKD.GATES = speckdWords.gates;
SpecKD.DIVERGENCES = speckdWords.divergences;
SpecKD.SELECTORS = speckdWords.selectors;
SpecKD.DEFAULT_KNOBS = speckdWords.defaults.knobs;
SpecKD.K_MAX = speckdWords.k_max;
