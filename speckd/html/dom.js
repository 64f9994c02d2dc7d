/* Small DOM builder: text is text, never markup. What the page says is told in the reader's language; what a model or a
   visitor said (a bdi, a direction found by itself, a quoted token) stays as it is. */
SpecKD.el = function (tag, attributes, ...children) {
  const node = document.createElement(tag);
  const theirs = ["bdi", "style"].includes(tag) ||
    (attributes && (attributes.dir === "auto" || THEIRS.test(String(attributes.class))));
  return fill(node, attributes, children, theirs ? asItIs : SpecKD.told);
};
/* Texts in pictures are tokens and figures: their few words are told where they are written. */
SpecKD.svg = function (tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(node, attributes, children, asItIs);
};
const THEIRS = /\bsk-(token|quote|proposed|command)\b/;
const SPOKEN = ["aria-label", "title", "placeholder"];
const asItIs = (text) => text;
function fill(node, attributes, children, told) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") node.textContent = told(value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : SPOKEN.includes(name) ? SpecKD.told(value) : value);
  }
  for (const child of children) {
    if (child !== null && child !== undefined) node.append(typeof child === "string" ? told(child) : child);
  }
  return node;
}

/* A line of 16 by 16 pixels that says what a button does; the button has the words. */
SpecKD.icon = (path) =>
  SpecKD.svg(
    "svg",
    { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", class: "sk-icon" },
    SpecKD.svg("path", { d: path }),
  );
