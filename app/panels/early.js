/* The first picture before Gradio is there. Its scripts come in waves and build the whole page first; the data of the
   open tab stands in the document already. So the tab is drawn at once, above Gradio's empty frame and below a row of
   tabs that looks like Gradio's. What it asks of the server waits until Gradio brings the server; then the nodes move
   into their place, as they are. app/document.py puts this script at the document's top. */

const { el, tr } = SpecKD;
const PANELS = { inspect: "inspector", distill: "distiller", decode: "decoder", map: "mapper", learn: "learner" };
const config = /** @type {any} */ (globalThis).gradio_config;
const waiting = new Map(); // part -> {root, update, connect}
/** @type {HTMLElement | null} */
let frame = null;

const named = (id) => (config.components || []).find((one) => one.props && one.props.elem_id === id);

/* A server that is yet to come: every question waits for it. */
function server() {
  let connect;
  const there = new Promise((resolve) => {
    connect = resolve;
  });
  const later = new Proxy({}, {
    get: (_, name) => (...given) => there.then(({ server }) => server[String(name)](...given)),
  });
  const trigger = (event, data) => void there.then((one) => one.trigger(event, data));
  return { connect, server: later, trigger };
}

function draw(tab) {
  const part = PANELS[tab];
  const panel = named(part);
  if (!panel || !frame) return false;
  for (const one of frame.querySelectorAll(".sk-panel")) /** @type {HTMLElement} */ (one).hidden = true;
  const known = waiting.get(part);
  if (known) {
    known.root.hidden = false;
    return true;
  }
  const root = el("div", { class: "sk sk-panel" });
  frame.append(root);
  const { connect, ...options } = server();
  const { value, props } = panel.props;
  const update = SpecKD.make(part, root, { ...props.options, ...options });
  update(value);
  waiting.set(part, { root, connect, update });
  return true;
}

/* Gradio's row of tabs, as far as the eye can tell; a tab that is chosen here is the one that Gradio opens. */
function row() {
  const bar = el("div", { class: "tab-container", role: "tablist" });
  for (const tab of Object.keys(PANELS)) {
    const about = named(`tab-${tab}`);
    if (!about) continue;
    const chosen = tab === SpecKD.address.tab();
    const button = el("button", {
      type: "button",
      role: "tab",
      "aria-selected": String(chosen),
      text: about.props.label,
    });
    button.classList.toggle("selected", chosen);
    button.addEventListener("click", () => {
      for (const other of bar.children) {
        other.classList.toggle("selected", other === button);
        other.setAttribute("aria-selected", String(other === button));
      }
      SpecKD.address.go(tab, SpecKD.address.params(tab));
      draw(tab);
    });
    bar.append(button);
  }
  return el("div", { class: "tab-wrapper" }, bar);
}

/* Whoever types goes on typing: the move, or a frame around it that was hidden, may have taken the focus. */
function keepFocus(node, frames = 3) {
  if (document.activeElement === document.body) node.focus({ preventScroll: true });
  if (frames) requestAnimationFrame(() => keepFocus(node, frames - 1));
}

/* The panel of this part that stands there already, moved to where Gradio wants it; null where there is none. */
SpecKD.adopt = function (part, place, { trigger, server }) {
  const one = waiting.get(part);
  if (!one) return null;
  waiting.delete(part);
  const { root } = one;
  const active = document.activeElement;
  const parent = /** @type {any} */ (place.parentElement);
  const last = PANELS[SpecKD.address.tab()] === part;
  if (last) document.documentElement.classList.remove("sk-early"); // first: what is hidden loses the focus
  root.hidden = false;
  // A move that keeps scroll, focus and open menus, where the browser knows it.
  if (parent.moveBefore && root.isConnected && parent.isConnected) parent.moveBefore(root, place);
  else place.before(root);
  place.remove();
  if (active instanceof HTMLElement && root.contains(active)) keepFocus(active);
  if (last && frame) {
    frame.remove();
    frame = null;
  }
  one.connect({ trigger, server });
  return one.update;
};

/* The page's language, before Gradio reads what its tabs are called. */
function translate() {
  document.documentElement.lang = SpecKD.language.code;
  document.documentElement.dir = SpecKD.language.direction;
  for (const tab of Object.keys(PANELS)) {
    const about = named(`tab-${tab}`);
    if (about) about.props.label = tr(about.props.label);
  }
}

function begin() {
  translate();
  const asked = new URLSearchParams(location.search).get("__theme");
  const dark = asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.body.classList.toggle("dark", dark);
  frame = el("div", { id: "early" });
  frame.append(row());
  document.body.prepend(frame);
  document.documentElement.classList.add("sk-early");
  try {
    if (draw(SpecKD.address.tab())) return;
  } catch (error) {
    console.warn(error); // Gradio makes the panel, a little later
  }
  waiting.clear();
  frame.remove();
  document.documentElement.classList.remove("sk-early");
}
if (config && document.querySelector("gradio-app")) begin();
