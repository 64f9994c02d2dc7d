/* The downloaded page of a decoding: the clock, the round, the rows and the card, with the player and no server. */

const { el, tr } = SpecKD;

SpecKD.lossyMark = ({ lenience }) => tr("lossy, lenience {e}", { e: lenience });

SpecKD.madeDecoding = (config) => {
  const how = config.do_sample
    ? tr("sampled at temperature {t}, seed {seed}", { t: config.temperature, seed: config.seed })
    : tr("greedy");
  const made = tr("draft {draft}, policy {policy}, {how}; teacher {teacher}, student {student}", {
    draft: config.draft,
    policy: config.policy,
    how,
    teacher: config.teacher,
    student: config.student,
  });
  return config.lenience < 1 ? `${SpecKD.lossyMark(config)}; ${made}` : made;
};

/* What the page and the downloaded file have in common: the parts over one picture, and their player. */
SpecKD.createDecodeParts = function (places, { onPin = () => {}, onMoment = (_state) => {} } = {}) {
  const { clock, stage, rows, card, facts } = places;
  const picture = SpecKD.createDecodePicture({ onPin, onMoment: (state) => moved(state) });
  const pin = (round, node) => {
    player.halt();
    picture.pin(round, node);
  };
  const player = SpecKD.createPlayer({
    duration: () => Math.max(2500, 4000 * picture.state.decoding.seconds),
    reached: () => (picture.state.decoding ? picture.state.decoding.last : 0),
    onStep: (moment) => picture.go(moment),
    onHalt: () => onMoment(picture.state),
    still: () => matchMedia("(prefers-reduced-motion: reduce)").matches,
    say: (moment, _last) => {
      const { decoding } = picture.state;
      if (!decoding || !decoding.rounds.length) return tr("no round yet");
      const { round } = decoding.at(moment);
      return tr("round {n} of {all}", { n: round.index + 1, all: decoding.rounds.length });
    },
  });
  const step = (way) => {
    const { decoding, moment, pin: pinned } = picture.state;
    if (!decoding || !decoding.rounds.length) return;
    const { round } = decoding.at(pinned ? decoding.end(decoding.rounds[pinned.round]) : moment);
    const ended = decoding.end(round);
    const next = decoding.rounds[round.index + (way > 0 ? (moment >= ended || pinned ? 1 : 0) : -1)];
    player.halt();
    picture.go(next ? decoding.end(next) : way > 0 ? decoding.last : 0);
  };
  const stepper = (way, label, path) =>
    el(
      "button",
      {
        type: "button",
        class: "sk-button sk-quiet sk-icon-button sk-stepper",
        "aria-label": label,
        title: label,
        onclick: () => step(way),
      },
      SpecKD.icon(path),
    );
  const scrub = el(
    "div",
    { class: "sk-scrub" },
    stepper(-1, tr("Round before"), "M10 3.5L5.5 8L10 12.5"),
    ...player.nodes,
    stepper(1, tr("Next round"), "M6 3.5L10.5 8L6 12.5"),
  );
  function moved(state) {
    player.show({ moment: state.moment, last: state.decoding.last, nothing: !state.decoding.rounds.length });
    if (!player.playing()) onMoment(state);
  }
  const go = (moment) => {
    player.halt();
    picture.go(moment);
  };
  const parts = {
    clock: picture.add(SpecKD.createDecodeClock(clock, { onMoment: go })),
    stage: picture.add(SpecKD.createDecodeStage(stage, { onPin: pin, looked: () => picture.looked() })),
    rows: picture.add(SpecKD.createDecodeRows(rows, { onPin: pin })),
    card: picture.add(SpecKD.createDecodeCard(card)),
    facts: picture.add(SpecKD.createDecodeFacts(facts)),
  };
  picture.add({
    setMoment: (state) =>
      player.show({ moment: state.moment, last: state.decoding.last, nothing: !state.decoding.rounds.length }),
  });
  return { picture, player, parts, scrub };
};

/* At a first look the round that says most is pinned, at its last word. */
SpecKD.firstLook = function (picture, decoding, pin = null) {
  const round = decoding.telling();
  const chosen = decoding.has(pin)
    ? pin
    : (round ? { round: round.index, node: round.own === null ? round.nodes.length - 1 : null } : null);
  picture.show(decoding, { pin: chosen });
};

SpecKD.showDecodingAlone = function (root, decoding) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => document.body.classList.toggle("dark", dark.matches);
  theme();
  dark.addEventListener("change", theme);
  const box = (kind) => el("div", { class: kind });
  const places = {
    clock: box("sk-decode-clock"),
    stage: box("sk-decode-stage"),
    rows: box("sk-decode-rows"),
    card: box("sk-decode-card"),
    facts: box("sk-decode-facts-box"),
  };
  const { picture, scrub, parts } = SpecKD.createDecodeParts(places);
  parts.facts.recorded = true;
  const { config } = decoding;
  root.replaceChildren(el(
    "main",
    { class: "sk-page sk-decode-alone" },
    el(
      "header",
      {},
      el("p", { class: "sk-small sk-muted", text: tr("SpecKD Lab: one text, decoded round by round") }),
      el("h1", { class: "sk-question", dir: "auto", text: SpecKD.visible(config.prompt) }),
      el("p", { class: "sk-small sk-muted", text: SpecKD.madeDecoding(config) }),
    ),
    scrub,
    places.clock,
    el(
      "div",
      { class: "sk-columns" },
      el("div", { class: "sk-main" }, places.stage, places.rows),
      el("div", { class: "sk-decode-side" }, places.card, places.facts),
    ),
    el("p", {
      class: "sk-small sk-muted",
      text: tr("Made with speckd {a}, torch {b}, transformers {c}.", {
        a: config.speckd,
        b: config.torch,
        c: config.transformers,
      }),
    }),
  ));
  SpecKD.firstLook(picture, decoding);
  return picture;
};
