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
/** @type {(tab: string) => HTMLElement | null} */
const button = (tab) => document.querySelector(`#tab-${tab}-button`);

function show() {
  clearTimeout(timer);
  const own = kept.get(open);
  const params = open === FIRST ? new URLSearchParams() : new URLSearchParams({ tab: open });
  for (const [key, value] of own || []) params.append(key, value);
  const text = params.toString();
  const hash = text ? "#" + text : "";
  if (hash === written) return;
  written = hash;
  history.replaceState(history.state, "", location.pathname + location.search + hash);
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
  if (wanted && wanted.getAttribute("aria-selected") !== "true") wanted.click();
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
  const pressed = event.target instanceof Element ? event.target.closest("[role=tab]") : null;
  const tab = pressed && TABS.find((name) => pressed.id === `tab-${name}-button`);
  if (!tab || tab === open) return;
  open = tab;
  show();
});
/* Gradio builds its tabs in its own time; an address that leads elsewhere than to the first waits for them. */
if (open !== FIRST) {
  const waiting = new MutationObserver(() => {
    if (!button(open)) return;
    waiting.disconnect();
    turnTo(open);
  });
  waiting.observe(document.documentElement, { childList: true, subtree: true });
}
