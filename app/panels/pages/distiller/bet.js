/* A bet before the run: who reaches the lower held-out divergence, who the higher acceptance? And what became of it. */

const { el, tr, format } = SpecKD;
/* What is bet on: the held-out figure, whether less is better, the question, and the answer's first words. */
const BETS = [
  {
    name: "divergence",
    less: true,
    kind: "nats",
    ask: "Who reaches the lower held-out divergence?",
    told: "Lower held-out divergence",
  },
  {
    name: "acceptance",
    less: false,
    kind: "probability",
    ask: "Who the higher acceptance?",
    told: "Higher acceptance",
  },
];
const fresh = () => ({ divergence: null, acceptance: null });

class DistillBet {
  constructor(id) {
    this.id = id;
    this.next = fresh(); // for the run that is started next
    this.target = this.next;
    this.title = el("h2", {});
    this.asks = BETS.map((bet) => this.makeAsk(bet));
    this.told = el("ul", { class: "sk-bet sk-bet-told", hidden: true });
    const about = { class: "sk-bet sk-bet-asks", "aria-label": tr("Your bet"), hidden: true };
    this.asked = el("section", about, this.title, ...this.asks.map(({ node }) => node));
  }
  makeAsk({ name, ask }) {
    const about = { class: "sk-segments sk-segments-small", role: "radiogroup", "aria-label": tr(ask) };
    const group = el("div", about);
    const inputs = SpecKD.RACERS.map((letter, index) => {
      const id = `${this.id}-${name}-${letter}`;
      const input = el("input", { type: "radio", id, name: `${this.id}-${name}`, value: index });
      input.addEventListener("change", () => {
        this.target[name] = index;
      });
      group.append(input, el("label", { for: id, text: letter }));
      return input;
    });
    return { name, inputs, node: el("div", { class: "sk-bet-ask" }, el("span", { text: tr(ask) }), group) };
  }

  /* The bet of a run that starts now. */
  take() {
    const bet = this.next;
    this.next = fresh();
    return bet;
  }
  /* `live`: the run on screen is under way; `revealed`: its verdict is on screen; `two`: two racers are set. */
  show(run, { live, revealed, two }) {
    const open = run && run.racers.length > 1 && !revealed;
    this.target = open ? run.bet : this.next;
    this.title.textContent = tr(open ? "Your bet" : "Bet on the next run");
    const scored = run && revealed && run.racers.length > 1 ? BETS.map((bet) => this.outcome(run, bet)) : [];
    this.told.replaceChildren(...scored.filter(Boolean));
    this.told.hidden = !this.told.childElementCount;
    this.asked.hidden = !open && !two;
    this.asked.classList.toggle("sk-bet-later", !open); // below what the last run came to
    const locked = live && open;
    for (const { name, inputs } of this.asks) {
      inputs.forEach((input, index) => {
        input.checked = this.target[name] === index;
        input.disabled = locked;
      });
    }
  }
  /* "Lower held-out divergence: B, 3.02 against 3.11 nats. You said A." */
  outcome(run, { name, less, kind, told }) {
    const last = run.racers.map((racer) => (racer.heldOut.filter((at) => at.step > 0).pop() || {})[name]);
    if (!last.every((x) => Number.isFinite(x))) return null;
    const close = format(last[0], kind) === format(last[1], kind); // then a digit more
    const text = last.map((x) => (close && kind === "probability" ? `${(100 * x).toFixed(1)}%` : format(x, kind)));
    const best = last[0] === last[1] ? -1 : (last[0] < last[1]) === less ? 0 : 1;
    const said = run.bet[name];
    const won = best < 0 ? tr("neither") : SpecKD.RACERS[best];
    const against = best === 1 ? [text[1], text[0]] : text;
    const fields = { figure: tr(told), won, mine: against[0], other: against[1] };
    const bet = said === null
      ? ""
      : " " + tr(said === best ? "You said so." : "You said {letter}.", { letter: SpecKD.RACERS[said] });
    const mark = said === null ? "" : said === best ? "✓ " : "✕ ";
    return el("li", { text: mark + tr("{figure}: {won}, {mine} against {other}.", fields) + bet });
  }
}

SpecKD.createDistillBet = (id) => new DistillBet(id);
