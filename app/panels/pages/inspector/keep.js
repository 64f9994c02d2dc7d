/* The menus of the Inspect page: examples to ask, and what a visitor takes home or brings along. */

const { tr } = SpecKD;
const TYPES = { json: "application/json", csv: "text/csv", html: "text/html" };

/* speckd-why-is-the-sky-blue.json */
function fileName({ prompt, prefix_ids: steered }, ending) {
  const words = (prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) || ["trace"]).slice(0, 6).join("-").slice(0, 48);
  return `speckd-${words}${steered ? "-steered" : ""}.${ending}`;
}

SpecKD.fillExamples = function (button, { recorded, examples, onRecorded, onExample }) {
  const menu = SpecKD.popup(button, "sk-popup-examples");
  if (recorded.length) menu.title("Recorded, on screen at once");
  for (const one of recorded) menu.add(one.config.prompt, one.label, () => onRecorded(one.name));
  menu.title("Questions to run");
  for (const text of examples) menu.add(text, "", () => onExample(text));
};

class InspectKeep {
  constructor({ button, server, say, limits, page, copyLink }) {
    this.server = server;
    this.say = say;
    this.limits = limits;
    this.page = page;
    const menu = SpecKD.popup(button, "sk-popup-keep");
    menu.add("Trace as JSON", "opens here again; all 50 draws", () => this.save("json"));
    menu.add("Table as CSV", "one row a token", () => this.save("csv"));
    menu.add("Picture as PNG", "strip and lanes", () => this.savePng());
    menu.add(tr("Card to share"), tr("1200 × 630, as links are shown"), () => this.saveCard());
    menu.add("Page as HTML", "one file, alive without a server", () => this.save("html"));
    menu.add("Copy link", "everything that is set, in the address", copyLink);
    const hidden = { class: "sk-hidden", tabindex: "-1", "aria-label": "Trace file" };
    const file = SpecKD.el("input", { type: "file", accept: ".json,application/json", ...hidden });
    menu.panel.append(file);
    menu.add("Open a trace…", "a JSON file kept earlier", () => file.click());
    file.addEventListener("change", () => {
      const [chosen] = file.files;
      file.value = "";
      if (chosen && !page.asking.busy()) this.open(chosen);
    });
  }

  async open(chosen) {
    const name = chosen.name.slice(0, 60);
    if (chosen.size > this.limits.bytes) {
      const sizes = `has ${(chosen.size / 1e6).toFixed(1)} MB and the limit here is ${
        (this.limits.bytes / 1e6).toFixed(0)
      } MB`;
      this.say("failed", `${name} ${sizes}.`);
      return;
    }
    this.say("loading", "Reading the trace.");
    try {
      const result = await this.server.open_trace(await chosen.text());
      if (result.error) {
        this.say("failed", result.error);
        return;
      }
      this.page.open(result, null, "opened");
      this.say("done", `Opened ${name}.`);
    } catch {
      this.say("failed", "The file could not be read here. Nothing was changed.");
    }
  }
  async save(kind) {
    const { shown, picture } = this.page;
    if (!shown) return;
    const name = fileName(shown.trace.config, kind);
    try {
      const { knobs, pinned } = picture.state;
      const answer = await this.server.export({ id: shown.id, kind, knobs, pin: pinned });
      if (answer.error) {
        this.say("failed", answer.error);
        return;
      }
      const text = kind === "html" ? SpecKD.pageInLanguage(answer.text) : answer.text;
      SpecKD.download(new Blob([text], { type: TYPES[kind] + ";charset=utf-8" }), name);
      this.say("done", `Saved ${name}.`);
    } catch {
      this.say("failed", SpecKD.NO_ANSWER);
    }
  }
  async saveCard() {
    const { shown, picture, lanes, strip, app } = this.page;
    if (!shown) return;
    try {
      const card = await SpecKD.inspectCard({ picture, lanes, host: app, interlinear: strip.isInterlinear() });
      SpecKD.download(card, fileName(shown.trace.config, "card.png"));
      this.say("done", tr("The card is saved."));
    } catch (error) {
      this.say("failed", error.message);
    }
  }
  async savePng() {
    const { shown, picture, lanes, strip, app } = this.page;
    if (!shown) return;
    const name = fileName(shown.trace.config, "png");
    this.say("loading", "Drawing the picture.");
    try {
      SpecKD.download(await SpecKD.toPng(picture, lanes, app, { interlinear: strip.isInterlinear() }), name);
      this.say("done", `Saved ${name}.`);
    } catch (error) {
      this.say("failed", error.message);
    }
  }
}

SpecKD.createInspectKeep = (options) => new InspectKeep(options);
