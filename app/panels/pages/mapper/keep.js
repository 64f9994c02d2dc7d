/* What a visitor takes home from the map: its cells as CSV, the picture as PNG, one page as HTML, and the link. */

const { el, tr } = SpecKD;

SpecKD.createMapKeep = function ({ state: _state, say: _say, copyLink }) {
  const button = el("button", { type: "button", class: "sk-button sk-quiet", text: tr("Keep") });
  return {
    button,
    mount() {
      const menu = SpecKD.popup(button, "sk-popup-keep");
      menu.add(tr("Copy link"), tr("figure, axes, control and comparison, in the address"), copyLink);
    },
  };
};
