/* What a step's words point at in its picture. */

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
/* Where the controls are that a step may point at. */
const POINTS = {
  gate: ".sk-segments",
  k: ".sk-k",
  tar: ".sk-tar",
  beta: ".sk-field-beta",
  divergence: ".sk-field-divergence",
  loss: ".sk-loss",
  strip: ".sk-learn-strip",
  token: ".sk-token.sk-pinned",
  lists: ".sk-picture",
  reason: ".sk-reason",
  sum: ".sk-sum",
  facts: ".sk-facts",
  chances: ".sk-chances",
  lanes: ".sk-learn-lanes",
  selectors: ".sk-rows-box",
  agreement: ".sk-compare-right",
  race: ".sk-race-charts",
  probe: ".sk-probe-box",
  play: ".sk-learn-play",
  own: ".sk-learn-own-button",
  map: ".sk-learn-map .sk-map-scroll",
  clock: ".sk-decode-clock",
  round: ".sk-decode-stage",
  rounds: ".sk-decode-rows",
  card: ".sk-decode-card",
  figures: ".sk-decode-facts-box",
};

/* Marks what the words speak of, and brings it into view. */
SpecKD.pointAt = function (root, names, { scroll = true, only = false } = {}) {
  for (const node of root.querySelectorAll(".sk-pointed")) node.classList.remove("sk-pointed", "sk-pointed-now");
  const nodes = names.map((name) => root.querySelector(POINTS[name] || ":scope > .nothing"))
    .filter((node) => node && node.getClientRects().length);
  for (const node of nodes) {
    node.classList.add("sk-pointed");
    if (only) node.classList.add("sk-pointed-now");
  }
  if (!scroll || !nodes.length) return;
  // What is taller than the room for it (a phone) is shown where its chosen token is, or from its top on.
  const behavior = calm() ? "auto" : "smooth";
  if (nodes[0].getBoundingClientRect().height <= root.clientHeight) {
    nodes[0].scrollIntoView({ block: "nearest", behavior });
    return;
  }
  const chosen = nodes[0].querySelector(".sk-pinned, .sk-node-pinned");
  if (chosen) chosen.scrollIntoView({ block: "center", inline: "nearest", behavior });
  else nodes[0].scrollIntoView({ block: "start", behavior });
};
