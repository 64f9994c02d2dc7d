/* What can be set on a page, in one table: the field of the request, its key in the address, its kind and its range.

   A row is {field, key, kind, ...}: kind "text"; "flag" (0 or 1 in the address); "choice" with `of`, the values that
   there are; "number" with min, max and step. A number with `strict` is read from an address only where it fits. */

const fits = (row, x) =>
  Number.isFinite(x) && !(x < (row.min ?? -Infinity)) && !(x > (row.max ?? Infinity)) &&
  (row.step !== 1 || Number.isInteger(x));

function fromText(row, text) {
  if (row.kind === "flag") return text === "1";
  if (row.kind === "choice") return row.of.includes(text) ? text : undefined;
  if (row.kind === "text") return text;
  const x = text === "" ? NaN : Number(text);
  return (row.strict ? fits(row, x) : Number.isFinite(x)) ? x : undefined;
}

SpecKD.createForm = function (table) {
  const row = (field) => table.find((one) => one.field === field);
  return {
    fits: (field, x) => fits(row(field), x),
    numbers: table.filter((one) => one.kind === "number").map((one) => one.field),

    /* Attributes of the field's input. */
    input(field) {
      const { kind, min, max, step } = row(field);
      if (kind !== "number") return { type: "text", spellcheck: "false" };
      return { type: "number", min, max, step: step ?? "any", inputmode: step === 1 ? "numeric" : "decimal" };
    },
    /* What stands in an input: null for an empty number. */
    read(field, node) {
      if (row(field).kind !== "number") return node.value;
      return node.value === "" ? null : Number(node.value);
    },
    show(node, value) {
      node.value = value === null || value === undefined ? "" : String(value);
    },

    toParams(form, params = new URLSearchParams()) {
      for (const { field, key, kind } of table) {
        const value = form[field];
        if (!key || value === null || value === undefined) continue;
        params.set(key, kind === "flag" ? (value ? "1" : "0") : String(value));
      }
      return params;
    },
    /* The fields that an address names and that make sense. */
    fromParams(params) {
      const found = {};
      for (const one of table) {
        if (!one.key || !params.has(one.key)) continue;
        const value = fromText(one, params.get(one.key));
        if (value !== undefined) found[one.field] = value;
      }
      return found;
    },
  };
};

/* The drawer of settings: a heading, a close button, the fields. The button that opens it says whether it is open. */
SpecKD.createDrawer = function ({ id, button, note, focus }, ...fields) {
  const { el } = SpecKD;
  const close = SpecKD.iconButton({ "aria-label": "Close settings" }, "M4 4l8 8M12 4l-8 8");
  const panel = el(
    "aside",
    { class: "sk-drawer", id, "aria-label": "Settings", hidden: true },
    el("div", { class: "sk-drawer-head" }, el("h2", { text: "Settings" }), close),
    el("p", { class: "sk-small sk-muted", text: note }),
    ...fields,
    SpecKD.drawerField("Language", SpecKD.languageChoice({ id: `${id}-language` })),
  );
  function open(yes) {
    panel.hidden = !yes;
    button.setAttribute("aria-expanded", String(yes));
    (yes ? focus || close : button).focus();
  }
  close.addEventListener("click", () => open(false));
  panel.addEventListener("sk-open", () => open(true));
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape") open(false);
  });
  button.setAttribute("aria-controls", id);
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => open(panel.hidden));
  return panel;
};
SpecKD.drawerField = (label, input, hint = "") =>
  SpecKD.el(
    "div",
    { class: "sk-drawer-field" },
    SpecKD.el("label", { for: input.id, text: label }),
    input,
    hint ? SpecKD.el("p", { class: "sk-small sk-muted", text: hint }) : null,
  );
/* A failure beside the field that caused it: the field is marked, a closed drawer opened, the sentence put below. It
   goes when the field is changed. Whether there was such a field. */
SpecKD.markField = function (root, name, words) {
  for (const old of root.querySelectorAll(".sk-field-error")) old.remove();
  const all = name ? [...root.querySelectorAll(`[data-field="${name}"]`)] : [];
  const field = all.find((node) => !node.closest("[hidden]:not(.sk-drawer)")) || all[0];
  if (!field) return false;
  const drawer = field.closest(".sk-drawer");
  if (drawer && drawer.hidden) drawer.dispatchEvent(new CustomEvent("sk-open"));
  const id = `sk-error-${name}`;
  const says = SpecKD.el("p", { class: "sk-field-error", id, text: words });
  const place = field.closest(".sk-drawer-field, .sk-given, .sk-ask, .sk-top") || field.parentElement;
  place.append(says);
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", id);
  field.focus();
  field.addEventListener("input", () => {
    says.remove();
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }, { once: true });
  return true;
};
/* Choices one of which holds; `field` marks them for tests and for reading. */
SpecKD.radioField = function (legend, { name, field }, choices) {
  const { el } = SpecKD;
  const set = el("fieldset", { class: "sk-drawer-field" }, el("legend", { text: legend }));
  for (const [value, text] of Object.entries(choices)) {
    const input = el("input", { type: "radio", name, value, "data-field": field });
    set.append(el("label", { class: "sk-radio" }, input, " " + text));
  }
  const inputs = () => [...set.querySelectorAll("input")];
  return {
    element: set,
    value: () => (inputs().find((one) => one.checked) || { value: "" }).value,
    choose(value) {
      for (const one of inputs()) one.checked = one.value === value;
    },
  };
};
