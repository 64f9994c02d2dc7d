/* The first script: the parts' common name, the reader's language, and the table of words that Python sends
   (speckd/words.py).

   English is what scripts and Python say. A language's table turns their sentences into its own, fields such as {n}
   kept; a sentence that it lacks stays English. Tables come with the words (app/lessons/<code>/words.json); a page
   that was downloaded has none. */

globalThis.SpecKD = globalThis.SpecKD || /** @type {any} */ ({});

const STORE = "speckd-lab.language"; // a choice made by hand, in this browser alone
const ENGLISH = { code: "en", name: "English", direction: "ltr", page: {} };

function recall() {
  try {
    return localStorage.getItem(STORE);
  } catch {
    return null; // a private window, or a file from the disk
  }
}
/* The language chosen by hand, or the first of the browser's that there is. */
function choose(languages) {
  const plain = (code) => code.toLowerCase().split("-")[0];
  const wished = [recall(), ...(navigator.languages || [])].filter(Boolean).map(plain);
  const code = wished.find((one) => languages.some((language) => language.code === one));
  return languages.find((language) => language.code === code) || languages[0] || ENGLISH;
}
SpecKD.language = choose(speckdWords.languages || []);
const table = SpecKD.language.page;

/* A choice by hand: the page is read anew in that language. */
SpecKD.chooseLanguage = function (code) {
  try {
    localStorage.setItem(STORE, code);
  } catch { /* then it holds for no longer than the browser says */ }
  location.reload();
};
/* A sentence of the scripts in the reader's language, with fields such as {n} filled in. */
SpecKD.tr = (text, fields = {}) => (table[text] || text).replace(/\{(\w+)\}/g, (_, name) => String(fields[name] ?? ""));

/* A sentence that is filled already: its fields are read out of it, and filled in again. Fields are numbers and names,
   which stay; one whose name begins with a capital, as {Fate}, is itself a piece to be told. */
const FIELD = /\\\{(\w+)\\\}/g;
const said = new Map(); // what was told before
let patterns = null;
const readPatterns = () =>
  Object.keys(table).filter((text) => text.includes("{") && text.replace(/\{\w+\}/g, "").length > 2).map((text) => {
    const names = [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    const shape = text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(FIELD, "(.+?)");
    return { text, names, shape: new RegExp(`^${shape}$`, "su") };
  }).sort((a, b) => b.text.length - a.text.length); // the one that says most fits best
function tell(text) {
  if (table[text]) return table[text];
  const [, before, core, after] = /^(\s*)(.*?)(\s*)$/su.exec(text);
  const sentences = core.split(/(?<=[.?!]) (?=\p{L})/u);
  return before + (table[core] || sentences.map(tellSentence).join(" ")) + after;
}
function tellSentence(text) {
  if (table[text]) return table[text];
  patterns = patterns || readPatterns();
  for (const one of patterns) {
    const found = one.shape.exec(text);
    if (!found) continue;
    const fields = one.names.map((name, i) => [name, /^[A-Z]/.test(name) ? tell(found[i + 1]) : found[i + 1]]);
    return SpecKD.tr(one.text, Object.fromEntries(fields));
  }
  return text;
}
SpecKD.told = function (text) {
  if (SpecKD.language.code === ENGLISH.code || typeof text !== "string" || !/\p{L}{2}/u.test(text)) return text;
  if (!said.has(text)) said.set(text, tell(text));
  return said.get(text);
};

/* The table of words itself is read in the reader's language from here on. */
function translated(value) {
  if (typeof value === "string") return table[value] || value;
  if (Array.isArray(value) || value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, translated(one)]));
}
const NAMED = ["gates", "divergences", "selectors", "run_gates", "figures", "held_out", "data", "responses"];
for (const name of [...NAMED, "own_share", "rings"]) speckdWords[name] = translated(speckdWords[name]);

SpecKD.GATES = speckdWords.gates;
SpecKD.DIVERGENCES = speckdWords.divergences;
SpecKD.SELECTORS = speckdWords.selectors;
SpecKD.DEFAULT_KNOBS = speckdWords.defaults.knobs;
SpecKD.K_MAX = speckdWords.k_max;
