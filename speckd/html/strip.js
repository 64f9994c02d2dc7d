/* The response as running text: one token, one mark. Accepted: a solid line below; rejected: a dashed box, hatched.
   The fill follows 1 - TVD, the chance that one random draw of the student would be accepted. */
const { el } = SpecKD;

SpecKD.createStrip = function (root, { onPin = () => {}, onHover = () => {}, label = "Response" } = {}) {
  let trace = null;
  let marks = [];
  let state = new Int8Array(0); // what each mark shows now: -1 nothing yet, 0 rejected, 1 accepted
  let current = -1; // the one in the tab order
  let hovered = -1;
  let pinned = -1;
  const unspoken = new Set(); // tokens whose spoken label is out of date
  let timer = 0;
  const list = el("div", { class: "sk-strip", role: "listbox", "aria-orientation": "horizontal", tabindex: "-1" });
  root.append(list);

  const indexOf = (node) => {
    const mark = node && node.closest ? node.closest(".sk-token") : null;
    return mark && list.contains(mark) ? Number(mark.dataset.t) : -1;
  };
  list.addEventListener("pointerover", (event) => {
    const t = indexOf(event.target);
    if (t >= 0 && event.pointerType !== "touch") onHover(t);
  });
  list.addEventListener("pointerleave", () => onHover(-1));
  list.addEventListener("click", (event) => {
    const t = indexOf(event.target);
    if (t >= 0) {
      focusable(t);
      onPin(t);
    }
  });
  list.addEventListener("focusin", (event) => {
    const t = indexOf(event.target);
    if (t >= 0) {
      speak();
      focusable(t);
      if (/** @type {Element} */ (event.target).matches(":focus-visible")) onHover(t);
    }
  });
  list.addEventListener("focusout", (event) => {
    if (!list.contains(/** @type {Node} */ (event.relatedTarget))) onHover(-1);
  });
  list.addEventListener("keydown", (event) => {
    const t = indexOf(event.target);
    if (t < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const last = marks.length - 1;
    const goal = {
      ArrowRight: t + 1,
      ArrowLeft: t - 1,
      ArrowDown: line(t, 1),
      ArrowUp: line(t, -1),
      Home: 0,
      End: last,
    }[event.key];
    if (goal !== undefined) {
      event.preventDefault();
      focusable(Math.max(0, Math.min(last, goal)));
      marks[current].focus();
      onHover(current);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onPin(t);
    }
  });

  /* The token above or below, by where it stands on the page. */
  function line(t, way) {
    const from = marks[t].getBoundingClientRect();
    let best = t;
    let bestDistance = Infinity;
    let row = null;
    for (let i = t + way; i >= 0 && i < marks.length; i += way) {
      const box = marks[i].getBoundingClientRect();
      if (Math.abs(box.top - from.top) < 6) continue;
      if (row === null) row = box.top;
      if (Math.abs(box.top - row) > 6) break;
      const distance = Math.abs(box.left - from.left);
      if (distance < bestDistance) [best, bestDistance] = [i, distance];
    }
    return best;
  }

  function focusable(t) {
    if (marks[current]) marks[current].tabIndex = -1;
    current = t;
    if (marks[current]) marks[current].tabIndex = 0;
  }

  function setTrace(next) {
    trace = next;
    unspoken.clear();
    const page = document.createDocumentFragment();
    marks = trace.tokens.map((text, t) => {
      const special = /^<\|.*\|>$/.test(text);
      const leading = special ? "" : (/^ (?=\S)/.exec(text) || [""])[0]; // the space before a word stays outside its mark
      const body = text.slice(leading.length);
      const mark = el("span", {
        class: "sk-token" + (special ? " sk-special" : ""),
        role: "option",
        "data-t": t,
        tabindex: "-1",
      });
      mark.style.setProperty("--a", Math.max(0, Math.min(1, SpecKD.acceptanceOfOneDraw(trace, t))).toFixed(3));
      const bare = body.replace(/^[\n\r]+|[\n\r]+$/g, "");
      mark.textContent = /^\s*$/.test(body) || body === ""
        ? SpecKD.shown(body)
        : SpecKD.visible(bare !== body ? body : bare);
      if (/^\s*$/.test(body)) mark.classList.add("sk-blank");
      if (leading) page.append(leading);
      page.append(mark);
      if (body.includes("\n")) page.append(el("br", { "aria-hidden": "true" }));
      return mark;
    });
    state = new Int8Array(marks.length).fill(-1);
    list.replaceChildren(page);
    list.classList.remove("sk-pending");
    list.setAttribute("aria-label", `${label}, ${marks.length} tokens. Arrow keys walk, Enter pins.`);
    current = hovered = pinned = -1;
    focusable(0);
    list.scrollTop = 0;
  }

  /* The whole repaint of a moved slider: only the tokens that changed are touched. What a screen reader says of them
     follows when the hand rests. */
  function paint(gated) {
    for (let t = 0; t < marks.length; t++) {
      if (state[t] === gated.accepted[t]) continue;
      state[t] = gated.accepted[t];
      marks[t].classList.toggle("sk-accepted", state[t] === 1);
      marks[t].classList.toggle("sk-rejected", state[t] === 0);
      unspoken.add(t);
    }
    clearTimeout(timer);
    timer = setTimeout(speak, 60);
  }
  function speak() {
    for (const t of unspoken) if (marks[t]) marks[t].setAttribute("aria-label", spoken(t));
    unspoken.clear();
  }
  function spoken(t) {
    const chance = SpecKD.percent(SpecKD.acceptanceOfOneDraw(trace, t));
    return `${SpecKD.spoken(trace.tokens[t])}: ${state[t] ? "accepted" : "rejected"}, token ${
      t + 1
    }, one random draw passes with ${chance}`;
  }

  function setCursor(t) {
    if (marks[hovered]) marks[hovered].classList.remove("sk-hovered");
    hovered = t;
    if (marks[hovered]) marks[hovered].classList.add("sk-hovered");
  }
  function setPinned(t, reveal = true) {
    if (marks[pinned]) {
      marks[pinned].classList.remove("sk-pinned");
      marks[pinned].setAttribute("aria-selected", "false");
    }
    pinned = t;
    if (!marks[pinned]) return;
    marks[pinned].classList.add("sk-pinned");
    marks[pinned].setAttribute("aria-selected", "true");
    focusable(t);
    if (reveal && list.scrollHeight > list.clientHeight) {
      const box = marks[t].getBoundingClientRect();
      const frame = list.getBoundingClientRect();
      if (box.top < frame.top || box.bottom > frame.bottom) list.scrollTop += box.top - frame.top - frame.height / 3;
    }
  }

  /* While a response is being written there is text, and no verdict yet. */
  function setPending(text) {
    trace = null;
    unspoken.clear();
    marks = [];
    state = new Int8Array(0);
    current = hovered = pinned = -1;
    list.classList.add("sk-pending");
    list.setAttribute("aria-label", `${label}, being written`);
    const pieces = text.split("\n");
    const page = document.createDocumentFragment();
    pieces.forEach((piece, i) => page.append(i ? el("br", {}) : "", SpecKD.visible(piece)));
    list.replaceChildren(page);
    list.scrollTop = list.scrollHeight;
  }

  return { setTrace, paint, setCursor, setPinned, setPending, element: list, token: (t) => marks[t] };
};
