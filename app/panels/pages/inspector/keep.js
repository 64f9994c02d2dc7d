/* What a visitor of Inspect takes home or brings along. */

const { tr } = SpecKD;

/* speckd-why-is-the-sky-blue.json */
function fileName({ prompt, prefix_ids: steered }, ending) {
  return `speckd-${SpecKD.wordsOfName(prompt, "trace")}${steered ? "-steered" : ""}.${ending}`;
}

class InspectKeep {
  constructor({ button, server, say, limits, page, copyLink }) {
    this.say = say;
    this.page = page;
    this.files = SpecKD.createFiles({
      server,
      say,
      most: limits.bytes,
      label: "Trace file",
      reading: "Reading the trace.",
      busy: () => page.asking.busy(),
      read: (text) => server.open_trace(text),
      open: (result) => page.open(result, null, "opened"),
    });
    const menu = SpecKD.popup(button, "sk-popup-keep");
    menu.add("Trace as JSON", "opens here again; all 50 draws", () => this.save("json"));
    menu.add("Table as CSV", "one row a token", () => this.save("csv"));
    menu.add("Picture as PNG", "strip and lanes", () => this.savePng());
    menu.add(tr("Card to share"), tr("1200 × 630, as links are shown"), () => this.saveCard());
    menu.add("Page as HTML", "one file, alive without a server", () => this.save("html"));
    menu.add("Copy link", "everything that is set, in the address", copyLink);
    menu.panel.append(this.files.input);
    menu.add("Open a trace…", "a JSON file kept earlier", () => this.files.choose());
  }

  save(kind) {
    const { shown, picture } = this.page;
    if (!shown) return;
    const { knobs, pinned: pin } = picture.state;
    this.files.save({ id: shown.id, kind, knobs, pin }, fileName(shown.trace.config, kind));
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
    this.say("loading", "Drawing the picture.");
    try {
      const png = await SpecKD.toPng(picture, lanes, app, { interlinear: strip.isInterlinear() });
      this.files.keep(png, fileName(shown.trace.config, "png"));
    } catch (error) {
      this.say("failed", error.message);
    }
  }
}

SpecKD.createInspectKeep = (options) => new InspectKeep(options);
