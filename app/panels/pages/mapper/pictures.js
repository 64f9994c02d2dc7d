/* What stands below the map: the written questions, what the gate masks, and Theorem 1 as it was measured. */

const { el } = SpecKD;

SpecKD.createMapBeside = function (_options) {
  const element = el("div", { class: "sk-map-beside" });
  return {
    element,
    show: (_beside) => {},
  };
};
