/* Small things that several pages use: a list of choices below its button, a link to a lesson, a file. */

/* Escape or a click elsewhere closes it. */
SpecKD.popup = function (button, kind) {
  const { el } = SpecKD;
  const panel = el("div", { class: `sk-popup ${kind}`, hidden: true });
  button.setAttribute("aria-expanded", "false");
  const anchor = el("div", { class: "sk-anchor" });
  button.replaceWith(anchor);
  anchor.append(button, panel);
  const open = (yes, focus = true) => {
    panel.hidden = !yes;
    button.setAttribute("aria-expanded", String(yes));
    if (yes && focus && panel.querySelector("button")) panel.querySelector("button").focus();
    if (!yes && focus) button.focus();
  };
  button.addEventListener("click", () => open(panel.hidden));
  anchor.addEventListener("keydown", (event) => {
    const items = [...panel.querySelectorAll("button")];
    const at = items.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (event.key === "Escape" && !panel.hidden) {
      event.stopPropagation();
      open(false);
    }
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (way && at >= 0) {
      event.preventDefault();
      items[(at + way + items.length) % items.length].focus();
    }
  });
  document.addEventListener("pointerdown", (event) => {
    if (!panel.hidden && !anchor.contains(/** @type {Node} */ (event.target))) open(false, false);
  });
  return {
    panel,
    anchor,
    clear: () => panel.replaceChildren(),
    title: (text) => panel.append(el("p", { class: "sk-popup-title", text })),
    add: (text, hint, act) =>
      panel.append(el(
        "button",
        {
          type: "button",
          onclick: () => {
            open(false);
            act();
          },
        },
        el("span", { text }),
        hint ? el("small", { text: hint }) : null,
      )),
  };
};

SpecKD.iconButton = (about, path) =>
  SpecKD.el("button", { type: "button", class: "sk-button sk-quiet sk-icon-button", ...about }, SpecKD.icon(path));

/* A small "?" beside a term: it leads to the lesson about it. */
SpecKD.lesson = function (id, about) {
  const link = SpecKD.el("a", {
    class: "sk-help",
    href: `#tab=learn&lesson=${id}`,
    "aria-label": `Learn about ${about}`,
    title: `Learn about ${about}`,
    text: "?",
  });
  link.addEventListener("click", (event) => {
    if (!SpecKD.address || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    SpecKD.address.go("learn", { lesson: id });
  });
  return link;
};

/* The page's languages, to be chosen by hand: the page is read anew in that one. */
SpecKD.languageChoice = function (attributes = {}) {
  const options = (speckdWords.languages || []).map(({ code, name }) =>
    SpecKD.el("option", { value: code, lang: code, selected: code === SpecKD.language.code, text: name })
  );
  const about = { "aria-label": "Language", ...attributes };
  const choice = SpecKD.el("select", { ...about, class: `sk-select ${attributes.class || ""}`.trim() }, ...options);
  choice.addEventListener("change", () => SpecKD.chooseLanguage(choice.value));
  return choice;
};
/* A page to keep speaks the reader's language: its script is given the one table (speckd/html/words.js). */
SpecKD.pageInLanguage = function (page) {
  const { code } = SpecKD.language;
  if (code === "en") return page;
  const languages = JSON.stringify([SpecKD.language]).replaceAll("<", "\\u003c");
  return page.replace('<html lang="en">', `<html lang="${code}">`)
    .replace("globalThis.speckdWords = {", (begun) => `${begun}"languages":${languages},`);
};
SpecKD.download = function (blob, name) {
  const link = SpecKD.el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

/* A button that shows and hides a box below the page, and brings it into view. */
SpecKD.revealButton = function (text, box, onShow = () => {}) {
  const button = SpecKD.el("button", {
    type: "button",
    class: "sk-button sk-quiet",
    "aria-expanded": "false",
    "aria-controls": box.id,
    text,
  });
  button.addEventListener("click", () => {
    box.hidden = !box.hidden;
    button.setAttribute("aria-expanded", String(!box.hidden));
    if (box.hidden) return;
    onShow();
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    box.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "nearest" });
  });
  return button;
};

/* The address as it stands, for others. */
SpecKD.copyLink = function (say, done = SpecKD.tr("The link is copied.")) {
  SpecKD.address.flush();
  return SpecKD.copyText(say, location.href, done, SpecKD.tr("the link is in the address bar."));
};
SpecKD.copyText = async function (say, text, done, otherwise) {
  try {
    await navigator.clipboard.writeText(text);
    say("done", done);
  } catch {
    say("failed", `This browser did not let the page copy: ${otherwise}`);
  }
};
