/* The frame of the page without a server: its tabs, its theme, its one sentence about models, and what a browser keeps
   of it. A tab's data is fetched when it is opened for the first time. */

const { el, tr } = SpecKD;
const QUIET = 2500; // milliseconds after the first picture until the rest is kept for the time without a network
const site = JSON.parse(document.getElementById("site").textContent);
const main = document.getElementById("tabs");

/* --- theme and language ------------------------------------------------------------------------------------------ */

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.body.classList.toggle("dark", dark.matches);
theme();
dark.addEventListener("change", theme);
document.documentElement.lang = SpecKD.language.code;
document.documentElement.dir = SpecKD.language.direction;

/* --- what needs a model ------------------------------------------------------------------------------------------ */

function note() {
  const words = el("p", {}, tr("This page has no server: its pictures, lessons and runs were recorded."), " ");
  words.append(tr("To ask a question of your own, or to train a student:"), " ");
  if (site.space) {
    words.append(el("a", { class: "sk-link", href: site.space, text: tr("open the Space") }), tr(", or "));
  }
  words.append(tr("in a checkout of the project type"), " ");
  site.commands.forEach((command, i) => words.append(i ? tr(", then ") : "", el("code", { text: command })));
  words.append(".");
  return el("footer", { class: "sk sk-site-note", id: "site-note", tabindex: "-1" }, words);
}
const foot = note();
const told = el("p", { class: "sk-hidden", role: "status" });
/* Asked for what only a model can answer: the way to one is shown, beside the sentence that the panel says. */
function wish() {
  foot.classList.add("sk-site-wished");
  told.textContent = "";
  told.textContent = foot.textContent;
}

/* --- tabs -------------------------------------------------------------------------------------------------------- */

const mounted = new Map(); // tab -> a promise, once it was opened
const buttons = new Map();
const boxes = new Map();

function opened(tab) {
  if (mounted.has(tab)) return mounted.get(tab);
  const panel = el("div", { class: "sk sk-panel" });
  const root = el("div", { id: tab.root }, panel);
  const waiting = el("p", { class: "sk sk-muted sk-site-waiting", role: "status", text: tr("Loading.") });
  boxes.get(tab).replaceChildren(root, waiting);
  const reading = fetch(tab.file).then((answer) => {
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  }).then((data) => {
    waiting.remove();
    SpecKD.mountRecorded(tab.part, root, data, wish);
  });
  reading.catch(() => {
    mounted.delete(tab);
    waiting.textContent = tr("This part of the page could not be fetched: connect, then choose its tab again.");
  });
  mounted.set(tab, reading);
  return reading;
}
function select(tab, focus = false) {
  for (const one of site.tabs) {
    const chosen = one === tab;
    buttons.get(one).setAttribute("aria-selected", String(chosen));
    buttons.get(one).classList.toggle("selected", chosen);
    buttons.get(one).tabIndex = chosen ? 0 : -1;
    boxes.get(one).hidden = !chosen;
  }
  if (focus) buttons.get(tab).focus();
  return opened(tab);
}
function makeTabs() {
  const list = el("div", { class: "tab-container", role: "tablist", "aria-label": tr("Parts of the page") });
  for (const tab of site.tabs) {
    const button = el("button", {
      type: "button",
      role: "tab",
      id: `tab-${tab.name}-button`,
      "aria-controls": `tab-${tab.name}`,
      text: tr(tab.label),
    });
    const box = el("div", { class: "tabitem", role: "tabpanel", id: `tab-${tab.name}`, "aria-labelledby": button.id });
    button.addEventListener("click", () => select(tab));
    buttons.set(tab, button);
    boxes.set(tab, box);
    list.append(button);
  }
  list.addEventListener("keydown", (event) => {
    const at = site.tabs.findIndex((tab) => buttons.get(tab) === event.target);
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = event.key === "Home" ? 0 : event.key === "End" ? site.tabs.length - 1 : at + way;
    const tab = at < 0 || Number.isNaN(next) ? null : site.tabs[(next + site.tabs.length) % site.tabs.length];
    if (!tab) return;
    event.preventDefault();
    buttons.get(tab).click(); // as a hand would: the address hears it too
    buttons.get(tab).focus();
  });
  const language = SpecKD.languageChoice({ class: "sk-site-language" });
  const bar = el("div", { class: "tab-wrapper" }, list, el("div", { class: "sk" }, language));
  main.replaceChildren(bar, ...boxes.values());
  main.after(foot, told);
}

/* --- kept for the time without a network ------------------------------------------------------------------------- */

async function keep() {
  if (!("serviceWorker" in navigator)) return; // not over plain http, but on this machine
  try {
    await navigator.serviceWorker.register("worker.js");
    const { active } = await navigator.serviceWorker.ready;
    const connection = /** @type {any} */ (navigator).connection;
    if (!connection || !connection.saveData) setTimeout(() => active.postMessage("keep all"), QUIET);
  } catch { /* a private window: the page works all the same, with a network */ }
}

makeTabs();
const wanted = site.tabs.find((tab) => tab.name === SpecKD.address.tab()) || site.tabs[0];
select(wanted).then(keep, keep);
