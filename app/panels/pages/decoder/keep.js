/* What a visitor of Decode takes home or brings along. */

const { el, tr } = SpecKD;
const TYPES = { json: "application/json", html: "text/html" };

function fileName(prompt, ending) {
  const words = (prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) || ["decoding"]).slice(0, 6).join("-").slice(0, 48);
  return `speckd-decoding-${words}.${ending}`;
}

class DecodeKeep {
  constructor({ button, server, say, limits, page, copyLink }) {
    this.server = server;
    this.say = say;
    this.limits = limits;
    this.page = page;
    const menu = SpecKD.popup(button, "sk-popup-keep");
    menu.add(tr("Record as JSON"), tr("every round; opens here again"), () => this.save("json"));
    menu.add(tr("Page as HTML"), tr("one file, alive without a server"), () => this.save("html"));
    menu.add(tr("Copy link"), tr("everything that is set, in the address"), copyLink);
    const hidden = { class: "sk-hidden", tabindex: "-1", "aria-label": tr("Record file") };
    const file = el("input", { type: "file", accept: ".json,application/json", ...hidden });
    menu.panel.append(file);
    menu.add(tr("Open a record…"), tr("a JSON file kept earlier"), () => file.click());
    file.addEventListener("change", () => {
      const [chosen] = file.files;
      file.value = "";
      if (chosen && !page.asking.busy()) this.open(chosen);
    });
  }

  async open(chosen) {
    const name = chosen.name.slice(0, 60);
    if (chosen.size > this.limits.bytes) {
      const sizes = { name, size: (chosen.size / 1e6).toFixed(1), limit: (this.limits.bytes / 1e6).toFixed(0) };
      this.say("failed", tr("{name} has {size} MB and the limit here is {limit} MB.", sizes));
      return;
    }
    this.say("loading", tr("Reading the record."));
    try {
      const result = await this.server.open_record(await chosen.text());
      if (result.error) {
        this.say("failed", result.error);
        return;
      }
      this.page.open(result, null, tr("opened"));
      this.say("done", tr("Opened {name}.", { name }));
    } catch {
      this.say("failed", tr("The file could not be read here. Nothing was changed."));
    }
  }
  async save(kind) {
    const { shown } = this.page;
    if (!shown || !shown.id) {
      this.say("failed", tr("There is nothing to keep yet: let a decoding come to its end, or stop it."));
      return;
    }
    const name = fileName(shown.decoding.config.prompt, kind);
    try {
      const answer = await this.server.export({ id: shown.id, kind });
      if (answer.error) {
        this.say("failed", answer.error);
        return;
      }
      SpecKD.download(new Blob([answer.text], { type: TYPES[kind] + ";charset=utf-8" }), name);
      this.say("done", tr("Saved {name}.", { name }));
    } catch {
      this.say("failed", SpecKD.NO_ANSWER);
    }
  }
}

SpecKD.createDecodeKeep = (options) => new DecodeKeep(options);
