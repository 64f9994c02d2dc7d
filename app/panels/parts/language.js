/* The page's words in the reader's language. English is what the scripts say; a table turns it into another language,
   and where it lacks a sentence the English one stays. Tables come from the server (app/lessons/<code>/words.json). */

const STORE = "speckd-lab.language"; // a choice made by hand, in this browser alone
let table = {};

function recall() {
  try {
    return localStorage.getItem(STORE);
  } catch {
    return null; // a private window
  }
}

/* The language of this page: the one chosen by hand, or the first of the browser's that there is. */
SpecKD.speak = function (languages) {
  const plain = (code) => code.toLowerCase().split("-")[0];
  const wished = [recall(), ...(navigator.languages || [])].filter(Boolean).map(plain);
  const code = wished.find((one) => languages.some((language) => language.code === one));
  const chosen = languages.find((language) => language.code === code) || languages[0];
  table = chosen.page || {};
  const ordinal = table["{n}th"];
  if (ordinal) SpecKD.ordinal = (n) => ordinal.replace("{n}", n.toLocaleString(chosen.code));
  return chosen;
};
/* A choice by hand: the page is read anew in that language. */
SpecKD.chooseLanguage = function (code) {
  try {
    localStorage.setItem(STORE, code);
  } catch { /* then it holds for no longer than the browser says */ }
  location.reload();
};
/* A sentence of the scripts in the reader's language, with fields such as {n} filled in. */
SpecKD.tr = (text, fields = {}) => (table[text] || text).replace(/\{(\w+)\}/g, (_, name) => String(fields[name] ?? ""));
