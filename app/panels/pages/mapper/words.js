/* Names of the study's arms, values and figures, in the reader's language. */

const { tr } = SpecKD;
const { figures, factors, arms, controls } = speckdWords.study;
const USUAL_BETA = 0.01; // said only where it is another
/** @type {Record<string, string>} */
const SYMBOLS = { beta: "β", k_from: "k₀" };

const labelled = (name, value) => `${SYMBOLS[name] || name.replaceAll("_", " ")} = ${SpecKD.number(value, 3)}`;

/* "topk:k=5:beta=0.01" as "Top-k, k = 5". */
SpecKD.armName = function (spec) {
  if (Object.hasOwn(arms, spec)) return tr(arms[spec]);
  const { kind, ...rest } = SpecKD.readGate(spec);
  const name = tr(arms[kind] || speckdWords.run_gates[kind] || kind.replaceAll("_", " "));
  const told = Object.entries(rest)
    .filter(([key, value]) => !(key === "beta" && value === USUAL_BETA))
    .map((
      [key, value],
    ) => (key === "open_until"
      ? tr("open until {share}", { share: SpecKD.percent(value) })
      : key === "k_from"
      ? tr("from k = {k}", { k: value })
      : labelled(key, value))
    );
  return [name, ...told].join(", ");
};

SpecKD.partNames = (arm) => arm.parts.map((part) => SpecKD.factorValue("part", part)).join(", ");
SpecKD.controlName = (control) => tr(controls[control] || control);
SpecKD.figureName = (figure) => tr(figures[figure].label);

/* A value of a factor, as it stands on an axis. */
SpecKD.factorValue = function (factor, value) {
  if (factor === "gate") return SpecKD.armName(value);
  if (factor === "figure") return SpecKD.figureName(value);
  if (factor === "objective") return tr((SpecKD.DIVERGENCES[value] || { label: value }).label);
  if (factor === "learning_rate") return SpecKD.number(value, 3);
  const named = factors[factor]?.values?.[value];
  return tr(named || String(value).replaceAll("_", " "));
};

/* What else was set: "young, teacher’s, sampled, rate 0.001, 120 steps". */
SpecKD.settingWords = function (arm, names) {
  const tell = {
    student: () => SpecKD.factorValue("student", arm.student),
    text: () => SpecKD.factorValue("text", arm.text),
    objective: () => SpecKD.factorValue("objective", arm.objective),
    learning_rate: () => tr("rate {rate}", { rate: SpecKD.number(arm.learning_rate, 3) }),
    steps: () => `${arm.steps} ${tr("steps")}`,
    study: () => SpecKD.factorValue("study", arm.study),
  };
  return names.filter((name) => tell[name]).map((name) => tell[name]()).join(", ");
};

/* A figure's difference with its sign; of shares in points, with their unit where it is asked for. */
SpecKD.figureChange = function (figure, x, { unit = false } = {}) {
  const { kind } = figures[figure];
  const isShare = kind === "share" || kind === "probability";
  const text = SpecKD.format(x, isShare ? "points" : kind, { signed: true, unit });
  return text.replace(/points$/, tr("points"));
};
SpecKD.figureValue = (figure, x) => SpecKD.format(x, figures[figure].kind);

/* A cell's verdict as a sentence, and how sure it is. */
SpecKD.verdictWords = function (figure, cell) {
  const change = (x) => SpecKD.figureChange(figure, x, { unit: true });
  if (cell.verdict === "helps") return tr("better");
  if (cell.verdict === "hurts") return tr("worse");
  if (cell.verdict === "few") return tr("too few seeds ({n})", { n: cell.n });
  const seen = change(cell.visible).replace(/^\+/, "");
  return tr("no difference seen (would have seen {visible} with 80% power)", { visible: seen });
};
SpecKD.intervalWords = function (figure, cell) {
  if (cell.low === null) return "";
  return `[${SpecKD.figureChange(figure, cell.low)}, ${SpecKD.figureChange(figure, cell.high)}]`;
};
/** @type {(figure: string, mean: number) => boolean} */
SpecKD.isBetter = (figure, mean) => (mean > 0) === (figures[figure].better === "higher");
