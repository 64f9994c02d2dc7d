/* The page's address and its tabs. Each tab keeps its own part of the #fragment; the address shows the open tab's. So a
   link leads to a tab and to what was set in it. Inspect came first: its addresses name no tab. */
const FIRST = "inspect";
const TABS = [FIRST, "distill", "decode", "map", "learn"];
const QUIET = 160; // milliseconds of rest before the address is written
const kept = new Map(); // tab -> URLSearchParams as last written or asked for
const listeners = new Map();
let written = location.hash;
let timer = 0;
let open = nameOf(new URLSearchParams(location.hash.replace(/^#/, "")));

function nameOf(params) {
  const name = params.get("tab");
  return TABS.includes(name) ? name : FIRST;
}
function bare(params) {
  const copy = new URLSearchParams(params);
  copy.delete("tab");
  return copy;
}
/* A tab's button. Those that find no room in the row Gradio puts into a menu, in their order and without a name. */
/** @type {(tab: string) => HTMLElement | null} */
function button(tab) {
  const named = /** @type {HTMLElement | null} */ (document.querySelector(`#tab-${tab}-button`));
  if (named) return named;
  /** @type {NodeListOf<HTMLElement>} */
  const all = document.querySelectorAll("#tabs > .tab-wrapper :is([role=tab], .overflow-dropdown button)");
  return all.length === TABS.length ? all[TABS.indexOf(tab)] : null;
}
const chosen = (wanted) => wanted.getAttribute("aria-selected") === "true" || wanted.classList.contains("selected");

function show() {
  clearTimeout(timer);
  if (location.hash !== written) { // it was led elsewhere a moment ago, and the browser has not told yet
    follow();
    return;
  }
  const own = kept.get(open);
  const params = open === FIRST ? new URLSearchParams() : new URLSearchParams({ tab: open });
  for (const [key, value] of own || []) params.append(key, value);
  const text = params.toString();
  const hash = text ? "#" + text : "";
  if (hash === written) return;
  history.replaceState(history.state, "", location.pathname + location.search + hash);
  written = location.hash;
  if (parent !== self && location.hostname.endsWith(".hf.space")) {
    parent.postMessage({ queryString: location.search.replace(/^\?/, ""), hash }, "https://huggingface.co");
  }
}
function tell(tab) {
  const listener = listeners.get(tab);
  if (listener) listener(new URLSearchParams(kept.get(tab) || ""));
}
function turnTo(tab) {
  const wanted = button(tab);
  if (!wanted) insist();
  else if (!chosen(wanted)) wanted.click();
}
/* Gradio builds its tabs in its own time, and moves some into a menu once it has measured them: an address that leads
   elsewhere than to the first insists until its tab is the chosen one. */
let insisting = false;
function insist() {
  if (insisting) return;
  insisting = true;
  const waiting = new MutationObserver(() => {
    const wanted = button(open);
    if (!wanted) return;
    if (!chosen(wanted)) {
      wanted.click();
      return;
    }
    waiting.disconnect();
    insisting = false;
  });
  waiting.observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["class", "aria-selected"],
  });
}
function follow() {
  if (location.hash === written) return;
  written = location.hash;
  const params = new URLSearchParams(location.hash.replace(/^#/, ""));
  open = nameOf(params);
  kept.set(open, bare(params));
  turnTo(open);
  tell(open);
}

SpecKD.address = {
  tab: () => open,
  /* What the tab wants in the address; written now and then, and only while the tab is open. */
  write(tab, params) {
    kept.set(tab, new URLSearchParams(params));
    if (tab !== open) return;
    clearTimeout(timer);
    timer = setTimeout(show, QUIET);
  },
  /* Write at once: for those who are about to copy the address. */
  flush: show,
  params: (tab) => new URLSearchParams(kept.get(tab) || ""),
  /* Hear whenever the address leads to this tab from now on; what it says now is in params(tab). */
  listen(tab, listener) {
    listeners.set(tab, listener);
  },
  go(tab, params) {
    open = tab;
    kept.set(tab, new URLSearchParams(params));
    turnTo(tab);
    show();
    tell(tab);
  },
};

if (location.hash) kept.set(open, bare(new URLSearchParams(location.hash.replace(/^#/, ""))));
globalThis.addEventListener("hashchange", follow);
document.addEventListener("click", (event) => {
  const pressed = event.target instanceof Element
    ? event.target.closest("[role=tab], .overflow-dropdown button")
    : null;
  const tab = pressed && TABS.find((name) => pressed === button(name));
  if (!tab || tab === open) return;
  open = tab;
  show();
}, true); // before Gradio, which may take the button away
if (open !== FIRST) insist();
