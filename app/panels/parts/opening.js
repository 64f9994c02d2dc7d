/* One token played, slowly enough to read: the student's word leaves its list, crosses to the teacher's, meets the line
   below the first k and gets its mark; with Spec-k the draws and their coins fall one by one. Then the marks run over
   the text.

   Everything is drawn from the clock alone (`at`), so it can end at any moment, and a test can stop it anywhere. */

const { el, svg, tr, shown } = SpecKD;
const STORE = "speckd-lab.opening"; // that this browser has seen it
const WORD = 1000; // milliseconds in which the word is looked at,
const CROSS = 1300; // crosses,
const LINE = 900; // meets the boundary,
const MARK = 900; // and gets its mark
const DRAW = 650; // of one draw and its coin
const MOST_DRAWS = 6;
const SWEEP = 1500; // of the marks over the text

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const within = (ms, from, long) => Math.max(0, Math.min(1, (ms - from) / long));
const eased = (x) => (x < 0.5 ? 2 * x * x : 1 - (2 - 2 * x) ** 2 / 2);

class Opening {
  /** @param {{verdict: any, strip: any, host: HTMLElement}} options */
  constructor({ verdict, strip, host }) {
    this.verdict = verdict;
    this.strip = strip;
    this.host = host; // wears the class sk-playing meanwhile
    this.says = el("p", { class: "sk-opening-says", "aria-hidden": "true" });
    this.playing = null;
    this.touched = false; // by a visitor who has something to do
    this.stop = () => this.end();
    const touch = () => {
      this.touched = true;
    };
    for (const kind of ["keydown", "pointerdown"]) {
      document.addEventListener(kind, touch, { capture: true, once: true });
    }
    this.button = el("button", { type: "button", class: "sk-button sk-quiet sk-small sk-opening-button" });
    this.button.append(SpecKD.icon("M5 3l7.5 5L5 13z"), el("span", { text: tr("Play this token") }));
    this.button.addEventListener("click", () => this.play());
  }

  /* For a visitor who has not been here, and has nothing against motion. */
  offer() {
    if (calm() || document.hidden || this.touched) return;
    try {
      if (localStorage.getItem(STORE)) return;
      localStorage.setItem(STORE, "seen");
    } catch {
      return; // a private window would play it at every visit
    }
    this.play({ sweep: true });
  }

  play({ sweep = false } = {}) {
    this.end();
    const { parts, trace, t, gated, knobs, element } = this.verdict;
    if (!parts || !trace) return;
    const mine = { parts, sweep, ghost: null, frame: 0, began: null, stages: [] };
    mine.stages = knobs.gate === "speck" ? this.drawsOf() : this.stagesOf(mine, trace, t, gated, knobs);
    mine.long = mine.stages.reduce((sum, stage) => sum + stage.long, 0);
    this.playing = mine;
    this.host.classList.add("sk-playing");
    element.append(this.says);
    for (const kind of ["keydown", "pointerdown"]) document.addEventListener(kind, this.stop, { capture: true });
    this.at(0);
    const tick = (now) => {
      if (this.playing !== mine) return;
      mine.began = mine.began ?? now;
      if (this.at(now - mine.began)) mine.frame = requestAnimationFrame(tick);
      else this.end();
    };
    mine.frame = requestAnimationFrame(tick);
  }

  end() {
    const mine = this.playing;
    if (!mine) return;
    this.playing = null;
    cancelAnimationFrame(mine.frame);
    for (const kind of ["keydown", "pointerdown"]) document.removeEventListener(kind, this.stop, { capture: true });
    for (const stage of mine.stages) stage.draw(1);
    if (mine.ghost) mine.ghost.remove();
    this.says.remove();
    this.host.classList.remove("sk-playing", "sk-sweeping");
    for (const mark of this.strip.element.querySelectorAll(".sk-swept")) mark.classList.remove("sk-swept");
    this.verdict.draw();
  }

  /* The picture at that many milliseconds; whether there is more to come. */
  at(ms) {
    const mine = this.playing;
    if (!mine || this.verdict.parts !== mine.parts) return false; // another token, or another width
    let from = 0;
    let words = "";
    for (const stage of mine.stages) {
      const x = calm() ? (ms >= from ? 1 : 0) : within(ms, from, stage.long); // without motion: one still after another
      stage.draw(x);
      if (ms >= from) words = stage.words;
      from += stage.long;
    }
    if (this.says.textContent !== words) this.says.textContent = words;
    if (!mine.sweep) return ms < from;
    this.host.classList.toggle("sk-sweeping", true);
    const swept = within(ms, from, SWEEP) * this.strip.marks.length;
    this.strip.marks.forEach((mark, t) => mark.classList.toggle("sk-swept", t < swept));
    return ms < from + SWEEP;
  }

  /* Word, crossing, boundary, mark. */
  stagesOf(mine, trace, t, gated, knobs) {
    const { strong, boundary, zone, badge, rank, shape } = mine.parts;
    const text = shown(SpecKD.tokenText(trace, trace.proposal_ids[t])).slice(0, 24);
    const length = strong.getTotalLength();
    const dashes = strong.getAttribute("stroke-dasharray");
    const ghost = svg("text", { class: "sk-opening-word", "text-anchor": "middle", text });
    mine.ghost = ghost;
    mine.parts.boundary.before(ghost);
    const accepted = gated.accepted[t] === 1;
    const cross = (x) => {
      const point = strong.getPointAtLength(length * eased(x));
      ghost.setAttribute("x", String(point.x));
      ghost.setAttribute("y", String(point.y - 7));
      ghost.style.opacity = x > 0 && x < 1 ? "1" : "0";
      strong.setAttribute("stroke-dasharray", x < 1 ? `${length * eased(x)} ${length}` : dashes);
      strong.style.visibility = x > 0 ? "" : "hidden";
    };
    const lineAt = boundary.style.transform;
    const falls = (x) => {
      boundary.style.opacity = zone.style.opacity = String(Math.min(1, 2 * x));
      boundary.style.transition = x < 1 ? "none" : "";
      const down = Number((/-?[\d.]+/.exec(lineAt) || [0])[0]);
      boundary.style.transform = `translateY(${shape.top + (down - shape.top) * eased(x)}px)`;
    };
    const marked = (x) => {
      badge.style.opacity = String(Math.min(1, 3 * x));
      badge.firstChild.setAttribute("r", String(8.5 + 7 * Math.sin(Math.PI * Math.min(1, 2 * x)) * (x < 1 ? 1 : 0)));
    };
    const places = { place: rank.toLocaleString("en"), k: knobs.k, word: text };
    const fate = accepted ? tr("Above the line: accepted, it counts.") : tr("Below the line: rejected, it is masked.");
    const stages = [
      { long: WORD, words: tr("The student would say ‘{word}’.", places), draw: () => {} },
      { long: CROSS, words: tr("In the teacher’s list it stands at place {place}.", places), draw: cross },
    ];
    if (knobs.gate === "none") return stages;
    return [
      ...stages,
      { long: LINE, words: tr("The line is drawn below the teacher’s first {k}.", places), draw: falls },
      { long: MARK, words: fate, draw: marked },
    ];
  }

  /* Spec-k: draw after draw, its bar, then its coin from above. */
  drawsOf() {
    const { gated, t, trace, knobs, element } = this.verdict;
    const all = [...element.querySelectorAll(".sk-draw")];
    const first = trace.speck_threshold[t];
    const count = Math.min(all.length, MOST_DRAWS, Math.min(first, knobs.k));
    const accepted = gated.accepted[t] === 1;
    const told = (j) => {
      const fields = { n: j + 1, word: shown(SpecKD.tokenText(trace, trace.draws.ids[t][j])) };
      if (j + 1 === first) return tr("Draw {n}, ‘{word}’: the coin lands on its bar. Accepted.", fields);
      return tr("Draw {n}, ‘{word}’: the coin lands above its bar.", fields);
    };
    const stages = all.slice(0, count).map((group, j) => {
      const [fill, coin] = [group.querySelector(".sk-fill"), group.querySelector(".sk-coin")];
      const high = Number(coin.getAttribute("y1"));
      const draw = (x) => {
        group.style.opacity = x > 0 ? "" : "0";
        fill.style.transform = `scaleY(${within(x, 0, 0.4)})`;
        coin.style.transform = `translateY(${-(high + 12) * (1 - eased(within(x, 0.35, 0.5)))}px)`;
        if (x >= 1) fill.style.transform = coin.style.transform = "";
      };
      return { long: DRAW, words: told(j), draw };
    });
    const rest = (x) => {
      for (const group of all.slice(count)) group.style.opacity = x >= 1 ? "" : "0";
    };
    const end = accepted ? tr("One draw passed: this token counts.") : tr("No draw passed: this token is masked.");
    return [
      { long: WORD, words: tr("The student draws from its list, one word after the other."), draw: () => {} },
      ...stages,
      { long: MARK, words: end, draw: rest },
    ];
  }
}

SpecKD.createOpening = (options) => new Opening(options);
