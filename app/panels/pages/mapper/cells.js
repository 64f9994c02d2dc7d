/* The cells of the map in a view: which rows and columns there are, which comparisons stand where, what they add up to.
   A comparison is an arm in its setting against the control; several settings may fall into one cell, side by side. */

const { tr } = SpecKD;
const COUNTED = ["learning_rate", "steps"]; // factors whose values are in order of size
const SETTING = ["student", "text", "objective", "learning_rate", "steps", "study"];
const ALL = "figure";

const valuesOf = (arm, factor) => (factor === "part" ? arm.parts : [arm[factor]]);
const figuresOf = (factors, figure) => factors.includes(ALL) ? Object.keys(speckdWords.study.figures) : [figure];

function inOrder(values, factor) {
  const each = [...new Set(values)];
  if (COUNTED.includes(factor)) each.sort((a, b) => a - b);
  return each;
}
function tile(arm, figure) {
  const cell = arm.figures[figure];
  if (!cell) return null;
  const better = SpecKD.isBetter(figure, cell.mean);
  const holdsZero = cell.low === null || (cell.low <= 0 && cell.high >= 0);
  return { arm, figure, cell, better, holdsZero, strength: 0 };
}

/* Every strength is the root of the difference over its figure's largest: a broken run does not pale the rest. */
function shade(tiles) {
  const largest = {};
  for (const { figure, cell } of tiles) largest[figure] = Math.max(largest[figure] || 0, Math.abs(cell.mean));
  for (const one of tiles) one.strength = Math.sqrt(Math.abs(one.cell.mean) / (largest[one.figure] || 1));
  return largest;
}

/* `view` is {figure, rows, columns, runs}; the answer {rows, columns, at(row, column), tiles, largest, varied}. */
SpecKD.mapCells = function (map, view) {
  const arms = map.arms.filter((arm) => view.runs === "all" || arm.screening === (view.runs === "screening"));
  const figures = figuresOf([view.rows, view.columns], view.figure);
  const tiles = arms.flatMap((arm) => figures.map((figure) => tile(arm, figure))).filter(Boolean);
  const largest = shade(tiles);
  const named = (one, factor) => (factor === ALL ? [one.figure] : valuesOf(one.arm, factor));
  const axis = (factor) => inOrder(tiles.flatMap((one) => named(one, factor)), factor);
  const places = new Map();
  for (const one of tiles) {
    for (const row of named(one, view.rows)) {
      for (const column of named(one, view.columns)) {
        const key = JSON.stringify([row, column]);
        places.set(key, [...(places.get(key) || []), one]);
      }
    }
  }
  const varied = SETTING.filter((name) => new Set(arms.map((arm) => arm[name])).size > 1);
  const at = (row, column) => places.get(JSON.stringify([row, column])) || [];
  return { rows: axis(view.rows), columns: axis(view.columns), at, tiles, largest, varied, view };
};

/* What all comparisons of a column have in common and others have not: a line below its name. */
SpecKD.columnWords = function (cells, column) {
  const here = cells.rows.flatMap((row) => cells.at(row, column)).map((one) => one.arm);
  const same = cells.varied.filter((name) => name !== cells.view.columns && name !== cells.view.rows)
    .filter((name) => new Set(here.map((arm) => arm[name])).size === 1);
  return here.length ? SpecKD.settingWords(here[0], same) : "";
};

/* The sentence above the map: counts of what is in view, and what the gains cost. */
SpecKD.mapSentence = function (cells, map) {
  const { tiles, view } = cells;
  const counted = { helps: [], hurts: [], none: [], few: [] };
  for (const one of tiles) counted[one.cell.verdict].push(one);
  if (!tiles.length) return tr("Nothing has been run yet that could be held against {control}.", controlOf(map));
  const every = [view.rows, view.columns].includes(ALL);
  const said = {
    ...controlOf(map),
    figure: every ? tr("the student") : SpecKD.figureName(view.figure),
    n: tiles.length,
    better: counted.helps.length,
    worse: counted.hurts.length,
    none: counted.none.length,
    few: counted.few.length,
  };
  const costly = counted.helps.filter((one) => one.arm.figures.divergence?.verdict === "hurts").length;
  const priced = !every && view.figure !== "divergence" && counted.helps.length;
  return [
    tr("Against {control}, {figure} is better in {better} of {n} comparisons and worse in {worse}", said),
    counted.none.length ? tr("; in {none} no difference was seen", said) : "",
    counted.few.length ? tr(", and too few seeds in {few}", said) : "",
    priced ? tr("; of the better ones {costly} cost held-out forward KL", { costly }) : "",
    ".",
  ].join("");
};
const controlOf = (map) => ({ control: SpecKD.controlName(map.control) });
