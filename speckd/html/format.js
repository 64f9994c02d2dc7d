/* The one place where a number becomes text. Python sends numbers with their kind; nothing else formats them.

   Every kind has two or three significant digits, one width for what is compared, a true minus sign, and "–" where
   there is nothing. A signed number is a change: it bears its sign, and no change is plainly 0. */

const NOTHING = "–";
const MINUS = "−";
const minus = (text) => text.replaceAll("-", MINUS);
const missing = (x) => x === null || x === undefined || Number.isNaN(x);

/* Three significant digits without idle zeros; thousands apart; very small ones as a power of ten. */
SpecKD.number = function (x, digits = 3) {
  if (missing(x)) return NOTHING;
  if (!isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  if (size === 0) return "0";
  if (size < 0.0005) return minus(x.toExponential(1));
  if (size >= 999.5) return minus(Math.round(x).toLocaleString("en"));
  return minus(String(Number(x.toPrecision(digits))));
};

/* A share or a probability from 0 to 1 as a percentage. */
SpecKD.percent = function (x) {
  if (missing(x) || !isFinite(x)) return NOTHING;
  const p = Math.abs(100 * x);
  const sign = x < 0 ? MINUS : "";
  if (p === 0) return "0%";
  if (p < 0.1) return sign ? ">−0.1%" : "<0.1%";
  if (p > 99.95 && p < 100) return sign ? "−99.9%" : ">99.9%";
  const whole = p >= 9.95 && (p < 99.5 || p >= 100); // 99.7% is not 100%
  return sign + p.toFixed(whole ? 0 : 1) + "%";
};

/* Figures of one width, as what was measured is written: so many significant digits, zeros kept. */
SpecKD.figures = (x, digits = 3) => {
  const size = Math.abs(x);
  const plain = !missing(x) && isFinite(x) && size >= 0.0005 && size < 10 ** digits - 0.5;
  return plain ? minus(x.toPrecision(digits)) : SpecKD.number(x, digits);
};
const three = (x) => SpecKD.figures(x, 3);
const whole = (x) => (missing(x) || !isFinite(x) ? NOTHING : minus(Math.round(x).toLocaleString("en")));
const seconds = function (x) {
  if (missing(x) || !isFinite(x)) return NOTHING;
  if (Math.abs(x) >= 90) return `${whole(x / 60)} min`;
  return (Math.abs(x) >= 10 ? whole(x) : SpecKD.figures(x, 2)) + " s";
};

const KINDS = {
  share: { write: SpecKD.percent, unit: "" },
  probability: { write: SpecKD.percent, unit: "" },
  nats: { write: three, unit: "nats" },
  score: { write: three, unit: "" },
  ratio: { write: SpecKD.number, unit: "" },
  count: { write: whole, unit: "" },
  seconds: { write: seconds, unit: "" },
  ordinal: { write: (x) => SpecKD.ordinal(x), unit: "" },
  times: { write: (x) => three(x) + "×", unit: "" },
  points: { write: (x) => SpecKD.figures(100 * x, 2), unit: "points" },
};

/* A number with its kind as text; `signed` for a change ("+0.12", "−5.0%", "0"), `unit` to name what it counts. */
SpecKD.format = function (x, kind, { signed = false, unit = false } = {}) {
  const { write, unit: name } = KINDS[kind] || KINDS.ratio;
  const text = write(x);
  const nothing = !/[1-9∞]/.test(text); // "0.00" and "0.0%" are no change either
  const sign = signed && x > 0 && !nothing ? "+" : "";
  const told = signed && nothing && text !== NOTHING ? write(0).replace(/^0\.0+/, "0") : text;
  return sign + told + (unit && name && text !== NOTHING ? " " + SpecKD.tr(name) : "");
};
SpecKD.formatNode = ({ number, kind, signed, unit }) => SpecKD.format(readReal(number), kind, { signed, unit });

/* JSON has no infinity: Python writes the string "inf". */
const readReal = (x) => (x === "inf" ? Infinity : x === "-inf" ? -Infinity : typeof x === "number" ? x : null);
SpecKD.real = readReal;

SpecKD.ordinal = function (n) {
  const told = SpecKD.tr("{n}th", { n: n.toLocaleString(SpecKD.language.code) });
  if (SpecKD.language.code !== "en") return told;
  const rest = n % 100;
  const suffix = rest > 10 && rest < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th";
  return n.toLocaleString("en") + suffix;
};
