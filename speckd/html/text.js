/* Token text as every part shows and speaks it. Always set with textContent. */

/* What can't be seen is shown by name; nothing else is changed. */
// deno-lint-ignore no-control-regex
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
SpecKD.visible = (text) =>
  text.replace(INVISIBLE, (c) => {
    if (c === "\n") return "↵";
    if (c === "\r") return "␍";
    if (c === "\t") return "⇥";
    const code = c.charCodeAt(0);
    return code < 32
      ? String.fromCharCode(0x2400 + code)
      : "⟨U+" + code.toString(16).toUpperCase().padStart(4, "0") + "⟩";
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
