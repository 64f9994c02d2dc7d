// deno-lint-ignore-file no-var no-explicit-any -- a name on globalThis is a var; gradio's and Plotly's are any
/* The contract between Python and the page: what Python sends, what the parts give one another, what events mean.

   The scripts are plain JavaScript; `deno check` holds them against this file. Nothing of it reaches a browser. */

/* --- numbers and words -------------------------------------------------------------------------------------- */

/** How a number is written (format.js): a share or a probability as a percentage, a divergence or an entropy in nats
 * and a score with three digits, a ratio (a weight, a rate) with up to three, a count whole, seconds with their unit, an
 * ordinal as a place ("3rd"), a factor with its sign ("2.05×"), the difference of two shares in percentage points. */
type NumberKind =
  | "share"
  | "probability"
  | "nats"
  | "score"
  | "ratio"
  | "count"
  | "seconds"
  | "ordinal"
  | "times"
  | "points";
/** A number as JSON carries it: there is no infinity in JSON, and null stands for what is no number. */
type Real = number | "inf" | "-inf" | null;

/** A number inside a text that Python sends: the browser formats it, and nothing else does. */
interface NumberNode {
  number: Real;
  kind: NumberKind;
  /** A change: with its sign, and "0" without one. */
  signed?: boolean;
  /** Followed by its unit ("nats"). */
  unit?: boolean;
}

interface Gate {
  label: string;
  says: string;
  /** The column of a Trace that it compares with k; null where it accepts everything. */
  column: "topk_threshold" | "speck_threshold" | null;
}
interface Figure {
  label: string;
  kind: NumberKind;
}
/** speckd/words.py, and the defaults of every form; sent once, before any part. */
interface Words {
  gates: Record<string, Gate>;
  divergences: Record<string, { label: string; long: string; unit: string; kind: NumberKind }>;
  selectors: Record<string, { label: string; says: string; own_fraction: number }>;
  run_gates: Record<string, string>;
  figures: Record<string, Figure>;
  held_out: Record<string, Figure>;
  own_share: Record<string, string>;
  rings: string;
  data: Record<string, string>;
  responses: Record<string, string>;
  /** What may propose and how far: the text that speckd.decode reads, and what it is called. */
  drafts: Record<string, string>;
  policies: Record<string, string>;
  verdicts: Record<string, { label: string; says: string }>;
  lasts: Record<string, { label: string; says: string }>;
  study: {
    figures: Record<string, Figure & { better: "higher" | "lower"; says: string }>;
    factors: Record<string, { label: string; values?: Record<string, string> }>;
    arms: Record<string, string>;
    controls: Record<string, string>;
  };
  k_max: number;
  defaults: { knobs: Knobs; question?: QuestionForm; run?: RunForm };
  /** The page's languages, English first; a downloaded page has none. */
  languages?: Language[];
}
/** `page` has what scripts and Python say, by the English sentence. */
interface Language {
  code: string;
  name: string;
  direction: string;
  page: Record<string, string>;
}

/* --- one text ----------------------------------------------------------------------------------------------- */

/** The gate of a picture. */
interface Knobs {
  gate: string;
  k: number;
  beta: number;
  divergence: string;
}

interface TraceConfig {
  prompt: string;
  teacher: string;
  student: string;
  source: string;
  do_sample: boolean;
  max_new_tokens: number;
  temperature: number;
  seed: number;
  teacher_sha256: string;
  student_sha256: string;
  dtype: string;
  device: string;
  speckd: string;
  torch: string;
  transformers: string;
}
/** With the token ids that a response was made to begin with, where it was steered. */
interface SteeredConfig extends TraceConfig {
  prefix_ids?: number[];
}
/** The ten likeliest tokens of one model at every token, and what the other model thinks of them. */
interface TopTokens {
  ids: number[][];
  prob: number[][];
  other_prob: number[][];
  other_rank: number[][];
}
/** Trace.to_dict of version 1, read by SpecKD.readTrace: one entry a response token in every column. */
interface Trace {
  config: SteeredConfig;
  prompt: string;
  response: string;
  n_prompt: number;
  input_ids: number[];
  tokens: string[];
  /** Text of every token that is named anywhere, by id. */
  strings: Record<string, string>;
  proposal_ids: number[];
  /** The smallest k that accepts the token, from 1; K_MAX + 1 of Spec-k where none does. */
  topk_threshold: number[];
  speck_threshold: number[];
  proposal_teacher_prob: number[];
  proposal_student_prob: number[];
  proposal_acceptance: number[];
  token_teacher_prob: number[];
  token_student_prob: number[];
  token_teacher_rank: number[];
  token_student_rank: number[];
  teacher_entropy: number[];
  student_entropy: number[];
  hellinger: number[];
  divergence: Record<string, number[]>;
  teacher_top: TopTokens;
  student_top: TopTokens;
  draws: { ids: number[][]; acceptance: number[][]; coin: number[][] };
  /** The place of a token under a selector, 1 first. */
  ranks: Record<string, number[]>;
}
/** What a strip needs of a text, from a Trace or from a row of a probe. */
interface SmallTrace {
  tokens: string[];
  topk_threshold: number[];
  speck_threshold: number[];
  divergence: { tvd: number[]; own: number[] };
  proposal: string[] | null;
}

/** A trace under a gate: everything that a slider changes. */
interface Gated {
  accepted: Uint8Array;
  weights: Float64Array;
  shares: Float64Array;
  divergence: number[];
  tar: number;
  plain: number;
  gated: number;
  /** The share of the loss that the gate takes away; NaN where there is none. */
  masked: number;
  n: number;
}

/** What shows a picture, or a side of it. Everything is optional; a late part is painted after the next frame. */
interface Part {
  setTrace?(trace: Trace): void;
  paint?(gated: Gated, knobs: Knobs): void;
  setCursor?(t: number): void;
  setPinned?(t: number): void;
  setShown?(t: number, state: PictureState): void;
}
interface PictureState {
  trace: Trace | null;
  knobs: Knobs;
  gated: Gated | null;
  pinned: number;
  hovered: number;
  painted: number | null;
}
interface Picture {
  state: PictureState;
  add<P extends Part>(part: P, options?: { late?: boolean }): P;
  setTrace(trace: Trace, options?: { pin?: number | null }): void;
  setKnobs(change: Partial<Knobs>): void;
  hover(t: number): void;
  pin(t: number, tell?: boolean): void;
  clear(): void;
}
interface PinHover {
  onPin?(t: number): void;
  onHover?(t: number): void;
}
interface Strip extends Part {
  setTrace(trace: Trace | SmallTrace): void;
  paint(gated: { accepted: Uint8Array }): void;
  setCursor(t: number): void;
  setPinned(t: number, reveal?: boolean): void;
  /** A response that is being written: text, and no verdict yet. */
  setPending(text: string): void;
  /** With the student's words above the text, or plain. */
  setInterlinear(yes: boolean): void;
  isInterlinear(): boolean;
  token(t: number): HTMLElement | undefined;
  element: HTMLElement;
}
interface Verdict {
  show(trace: Trace, t: number, gated: Gated, knobs: Knobs): void;
  focus(): void;
  clear(): void;
  element: HTMLElement;
  destroy(): void;
}
interface Controls extends Part {
  primary: HTMLElement;
  secondary: HTMLElement;
  show(knobs: Knobs): void;
  paint(gated: Gated, knobs: Knobs): void;
}
interface Compare extends Part {
  setTrace(trace: Trace): void;
  paint(gated: Gated, knobs: Knobs): void;
  setCursor(t: number): void;
  setPinned(t: number): void;
  refresh(): void;
  repaint(): void;
  element: HTMLElement;
  destroy(): void;
}

/* --- one decoding ------------------------------------------------------------------------------------------- */

/** A round as DecodeRecord.to_dict has it; `strings` comes with a live one. */
interface RoundData {
  start: number;
  output: number[];
  kind: "teacher" | "bonus" | "resampled";
  tokens: number[];
  parents: number[];
  draft_probs: number[];
  teacher_probs: number[];
  acceptance: number[];
  coins: (number | null)[];
  verdicts: ("accepted" | "rejected" | "unseen")[];
  near_tie: boolean;
  steps: number;
  checks: [number, number][];
  leftover: [number, number][];
  teacher_top: [number, number, number | null][][];
  draft_top: [number, number, number | null][][];
  floors: { drafted: number[]; accepted: number; middle: number }[];
  draft_seconds: number;
  verify_seconds: number;
}
/** A drafted token of a round. */
interface DraftNode {
  token: number;
  parent: number;
  depth: number;
  q: number;
  p: number;
  acceptance: number;
  coin: number | null;
  verdict: "accepted" | "rejected" | "unseen";
}

/* --- a training run ----------------------------------------------------------------------------------------- */

/** speckd's recording of a run, one event after another. */
type RunEvent =
  | {
    kind: "start";
    racers: { gate: string; name: string }[];
    steps: number;
    /** Whether the racers' steps alternate. */
    in_turn?: boolean;
    student: string;
    teacher: string;
    teacher_sha256: string;
    seed: number;
    divergence: string;
    settings?: Record<string, unknown>;
    probe: { prompt: string; tokens: string[]; teacher_entropy?: Real[] } | null;
  }
  | { kind: "row"; racer: number; row: Record<string, Real> & { step: number } }
  | { kind: "held_out"; racer: number; step: number; scores: Record<string, Real> }
  | {
    kind: "probe";
    racer: number;
    step: number;
    topk_threshold: number[];
    speck_threshold: number[];
    divergence: Real[];
    tvd: Real[];
    proposal: string[];
  }
  | { kind: "saying"; racer: number; step: number; text: string }
  | { kind: "answers"; prompt: string; answers: Answer[] }
  | { kind: "verdict"; text: string; table: (string | number | null)[][] }
  | {
    kind: "kept";
    students?: { value: string; label: string; racer: number }[];
    files?: Record<string, string>;
    command?: string;
  };
type EventOf<Kind extends RunEvent["kind"]> = Extract<RunEvent, { kind: Kind }>;

interface Answer {
  who: "teacher" | "before" | "after";
  racer?: number | null;
  sampled?: boolean;
  trace?: Partial<Trace>;
}
/** "topk:k=5:beta=0.01" taken apart. */
interface RunGate {
  kind: string;
  k?: number;
  beta?: number;
  rate?: number;
}
type Row = { step: number } & Record<string, number | null>;
interface ProbeRow {
  step: number;
  topk_threshold: number[];
  speck_threshold: number[];
  divergence: number[];
  tvd: number[];
  proposal: string[];
}
interface Racer {
  index: number;
  letter: string;
  name: string;
  spec: string;
  gate: RunGate;
  /** In order of the step, one a step. */
  rows: Row[];
  heldOut: Row[];
  probes: ProbeRow[];
  sayings: { step: number; text: string }[];
}
type Bet = { divergence: number | null; acceptance: number | null };
/** A run as the page knows it: read from events, live or recorded. */
interface Run {
  key?: string;
  /** Of the probe: the run that it shows. */
  shownKey?: string;
  label?: string;
  start: EventOf<"start"> | null;
  steps: number;
  racers: Racer[];
  answers: EventOf<"answers"> | null;
  verdict: EventOf<"verdict"> | null;
  kept: EventOf<"kept"> | null;
  /** Events read so far. */
  n: number;
  newest: { racer: number; step: number };
  /** What the visitor bet on, before it was known: the index of a racer. */
  bet: Bet;
  /** Its verdict has been on screen. */
  revealed?: boolean;
  add(events: RunEvent[]): Run;
}

/* --- what a visitor asks for, and what the server says of it ------------------------------------------------- */

interface QuestionForm {
  prompt: string;
  teacher: string;
  student: string;
  source: string;
  response: string;
  do_sample: boolean;
  max_new_tokens: number | null;
  temperature: number | null;
  seed: number | null;
}
interface RunForm {
  student: string;
  teacher: string;
  data: string;
  text: string;
  responses: string;
  gates: string[];
  steps: number | null;
  batch_size: number | null;
  learning_rate: number | null;
  lora_rank: number | null;
  seed: number | null;
}

/** A panel's value while something is under way; `run` says whose. */
interface Update {
  run?: string;
  state?: string;
  text?: string;
  /** How much is done, from 0 to 1; null while nobody knows. */
  share?: number | null;
  seconds_left?: number | null;
  /** Inspect: the response so far. */
  partial?: string | null;
  result?: Result | null;
  /** Distill: JSON text of events, and the place of the first. */
  events?: string;
  from?: number;
  recorded?: Recording | null;
  /** Of a failure: the field of the form that caused it. */
  field?: string | null;
}
/** A trace with its heatmap, as JSON texts or read. */
interface Result {
  id: string;
  recorded?: boolean;
  trace: string | Trace;
  figure: string | PlotlyFigure;
  error?: string;
}
interface Recording {
  label?: string;
  events: string;
  error?: string;
}
/** What the panel's Python answers; every answer may be {error: a sentence}. */
type Server = Record<string, (asked?: any) => Promise<any>>;
type Trigger = (event: string, data: any) => void;
/** What every panel is mounted with; its own options come on top. */
type PanelOptions = { trigger: Trigger; server: Server; plotly: string } & Record<string, any>;
type Mounted = (value: Update) => unknown;

type PlotlyFigure = { data: any[]; layout: any };

/* --- the app's parts ----------------------------------------------------------------------------------------- */

/** Says how it stands: a state of the server's, a sentence, and how much is done (0 to 1; null while nobody knows). */
type Say = (state: string, words: string, share?: number | null) => void;
/** A visitor's own piece of work on the server; a page hangs its own facts on it. */
type Job = { id: string; waiting: boolean; stopped: boolean; timer: number } & Record<string, any>;
interface Asking {
  start(data: object, facts?: object): Job;
  stop(): void;
  release(): void;
  forget(): void;
  busy(): boolean;
  current(): Job | null;
  heard(update: Update): Job | null;
}
/** One setting: its field in the request, its key in the address, its kind and its range. */
interface FormRow {
  field: string;
  key?: string;
  kind: "text" | "flag" | "choice" | "number";
  of?: string[];
  min?: number;
  max?: number;
  step?: number;
  /** Read from an address only where it fits the range. */
  strict?: boolean;
}
interface Form {
  numbers: string[];
  fits(field: string, x: number): boolean;
  input(field: string): Attributes;
  read(field: string, node: HTMLInputElement): string | number | null;
  show(node: HTMLInputElement, value: unknown): void;
  toParams(form: object, params?: URLSearchParams): URLSearchParams;
  fromParams(params: URLSearchParams): Record<string, any>;
}
interface Player {
  show(state: { moment: number; last: number; nothing?: boolean; locked?: boolean }): void;
  announce(): void;
  begin(): void;
  halt(): void;
  playing(): boolean;
  nodes: HTMLElement[];
  button: HTMLButtonElement;
  scrubber: HTMLInputElement;
}
interface Menu {
  panel: HTMLElement;
  anchor: HTMLElement;
  clear(): void;
  title(text: string): void;
  add(text: string, hint: string, act: () => void): void;
}
interface Plot {
  show(figure: PlotlyFigure, height?: number): Promise<void>;
  element: HTMLElement;
  /** Plotly hangs its layout on it. */
  area: any;
  on(event: string, listener: (event: any) => void): void;
  destroy(): void;
}
interface Lanes extends Part {
  setFigure(figure: PlotlyFigure): void;
  setHeight(pixels: number): void;
  /** Into a picture to keep: all lanes with their words, as wide and high as given. */
  paintInto(
    pen: CanvasRenderingContext2D,
    place: { left: number; top: number; width: number; height: number; narrow?: boolean },
  ): void;
  repaint(): void;
  element: HTMLElement;
  destroy(): void;
}
interface RaceCharts {
  show(run: Run, at?: { step?: number; until?: number }): void;
  setMoment(step: number, until?: number): void;
  drawn(): Promise<unknown>;
  destroy(): void;
}
interface ProbeHeatmap {
  show(run: Run, at?: { step?: number; upTo?: number; racer?: number | null }): void;
  setMoment(step: number, upTo?: number): void;
  destroy(): void;
}

/* --- the parts' common name --------------------------------------------------------------------------------- */

type Attributes = Record<string, unknown>;
type Child = Node | string | null | undefined;

interface SpecKDParts {
  GATES: Words["gates"];
  DIVERGENCES: Words["divergences"];
  SELECTORS: Words["selectors"];
  DEFAULT_KNOBS: Knobs;
  K_MAX: number;

  language: Language;
  /** A sentence in the reader's language, its fields filled in. */
  tr(text: string, fields?: Record<string, unknown>): string;
  /** The same of one that Python has filled. */
  told(text: string): string;
  chooseLanguage(code: string): void;

  number(x: number | null | undefined, digits?: number): string;
  figures(x: number | null | undefined, digits?: number): string;
  percent(x: number | null | undefined): string;
  format(x: number | null | undefined, kind: NumberKind, options?: { signed?: boolean; unit?: boolean }): string;
  formatNode(node: NumberNode): string;
  real(x: Real | undefined): number | null;
  ordinal(n: number): string;

  visible(text: string): string;
  shown(text: string): string;
  spoken(text: string): string;
  tokenText(trace: Trace, id: number): string;
  el<K extends keyof HTMLElementTagNameMap>(
    tag: K,
    attributes?: Attributes,
    ...children: Child[]
  ): HTMLElementTagNameMap[K];
  svg<K extends keyof SVGElementTagNameMap>(
    tag: K,
    attributes?: Attributes,
    ...children: Child[]
  ): SVGElementTagNameMap[K];

  readTrace(source: string | Trace): Trace;
  regate(trace: Trace, knobs: Knobs): Gated;
  acceptanceOfOneDraw(trace: Trace | SmallTrace, t: number): number;
  acceptanceOfAnyDraw(trace: Trace, t: number, k: number): number;
  budget(fraction: number, n: number): number;
  keep(ranks: number[], budget: number): Uint8Array;
  jaccard(a: ArrayLike<number>, b: ArrayLike<number>): number;
  keptShare(divergence: number[], kept: ArrayLike<number>): number;

  createPicture(options?: { knobs?: Partial<Knobs>; onKnobs?(knobs: Knobs): void; onPin?(t: number): void }): Picture;
  createStrip(root: HTMLElement, options?: PinHover & { label?: string; interlinear?: boolean }): Strip;
  proposedInstead(trace: Trace | SmallTrace, t: number): string | null;
  interlinearSwitch(strip: Strip): HTMLElement;
  createVerdict(root: HTMLElement, options?: { onAlternative?: ((t: number, token: number) => void) | null }): Verdict;
  createControls(options: { knobs: Knobs; onChange(change: Partial<Knobs>): void }): Controls;
  createCompare(root: HTMLElement, options?: PinHover): Compare;
  legend(): HTMLElement;
  madeBy(
    config: Pick<SteeredConfig, "student" | "teacher" | "source" | "do_sample" | "temperature" | "seed" | "prefix_ids">,
  ): string;
  /** The picture of a downloaded page. */
  showAlone(root: HTMLElement, trace: Trace, options?: { knobs?: Partial<Knobs>; pin?: number | null }): Picture;

  /* The app's parts (app/panels/parts). */
  createPlot(root: HTMLElement, options: { src: string; height?: number; onDrawn?(area: HTMLElement): void }): Plot;
  createLanes(root: HTMLElement, options: PinHover & { plotly: string; height?: number }): Lanes;
  createRace(
    root: HTMLElement,
    options: {
      plotly: string;
      figures: Record<string, string | PlotlyFigure>;
      height?: number;
      /** The lesson about a quantity: its id, and what it is about. */
      lessons?: Record<string, [string, string]>;
      onStep?(step: number): void;
    },
  ): RaceCharts;
  createProbe(
    root: HTMLElement,
    options?: { onMoment?(step: number): void; onRacer?(racer: number): void; lessons?: { probe?: [string, string] } },
  ): ProbeHeatmap;
  createRun(): Run;
  readGate(spec: string | undefined): RunGate;
  /** Of a trace, or of a row of a probe with its tokens. */
  smallTrace(source: any): SmallTrace;
  lastAt<T extends { step: number }>(list: T[], step: number): T | null;
  reachedStep(run: Run): number;
  hasK(kind: string): boolean;
  createStatus(nodes: { text: HTMLElement; box?: HTMLElement; spoken?: HTMLElement; bar: HTMLElement }): Say;
  createAsking(options: {
    button: HTMLButtonElement;
    label: string;
    stopping?: string;
    patience: number;
    server: Server;
    trigger: Trigger;
    say: Say;
    onImpatient(job: Job): void;
  }): Asking;
  watchModels(options: { server: Server; say: Say; quiet(): boolean; onLoaded?(): void }): void;
  createForm(table: FormRow[]): Form;
  createPlayer(options: {
    quiet?: boolean;
    /** Milliseconds that steps 0 to last take. */
    duration(last: number): number;
    reached(): number;
    onStep(step: number): void;
    onHalt?(): void;
    ready?(): Promise<unknown>;
    still?(): boolean;
    /** The words for a step; "step 3 of 24" by default. */
    say?(moment: number, last: number): string;
  }): Player;
  icon(path: string): SVGElement;
  lesson(id: string, about: string): HTMLAnchorElement;
  popup(button: HTMLElement, kind: string): Menu;
  racerMark(index: number): SVGElement;

  [more: string]: any;
}

declare var SpecKD: SpecKDParts;
declare var speckdWords: Words;
declare var Plotly: any;
