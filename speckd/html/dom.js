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

/* A line of 16 by 16 pixels that says what a button does; the button has the words. */
SpecKD.icon = (path) =>
  SpecKD.svg(
    "svg",
    { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", class: "sk-icon" },
    SpecKD.svg("path", { d: path }),
  );
