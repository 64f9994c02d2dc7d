/* Files of a page: what a visitor takes home, and one that is brought along again. */

const { el, tr } = SpecKD;
const TYPES = { json: "application/json", csv: "text/csv", html: "text/html" };
const megabytes = (bytes, digits) => (bytes / 1e6).toFixed(digits);

/* why-is-the-sky-blue */
SpecKD.wordsOfName = (prompt, otherwise) =>
  (prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [otherwise]).slice(0, 6).join("-").slice(0, 48);

class Files {
  /** @param {{server: Server, say: Say, most: number, label: string, reading: string, busy: () => boolean,
      read: (text: string) => Promise<any>, open: (result: any) => void}} options */
  constructor({ server, say, most, label, reading, busy, read, open }) {
    this.server = server;
    this.say = say;
    this.most = most;
    this.reading = reading;
    this.read = read;
    this.open = open;
    const hidden = { class: "sk-hidden", tabindex: "-1", "aria-label": label };
    this.input = el("input", { type: "file", accept: ".json,application/json", ...hidden });
    this.input.addEventListener("change", () => {
      const [chosen] = this.input.files;
      this.input.value = "";
      if (chosen && !busy()) this.bring(chosen);
    });
  }
  choose() {
    this.input.click();
  }

  /* A file of the visitor's own: the server reads its text, and the page shows what it was. */
  async bring(chosen) {
    const name = chosen.name.slice(0, 60);
    if (chosen.size > this.most) {
      const sizes = { name, size: megabytes(chosen.size, 1), limit: megabytes(this.most, 0) };
      this.say("failed", tr("{name} has {size} MB and the limit here is {limit} MB.", sizes));
      return;
    }
    this.say("loading", this.reading);
    try {
      const result = await this.read(await chosen.text());
      if (result.error) {
        this.say("failed", result.error);
        return;
      }
      this.open(result);
      this.say("done", tr("Opened {name}.", { name }));
    } catch {
      this.say("failed", tr("The file could not be read here. Nothing was changed."));
    }
  }

  /* What the server writes of `asked`, {id, kind, ...}, as a file of that name. */
  async save(asked, name) {
    try {
      const answer = await this.server.export(asked);
      if (answer.error) {
        this.say("failed", answer.error);
        return;
      }
      const text = asked.kind === "html" ? SpecKD.pageInLanguage(answer.text) : answer.text;
      this.keep(new Blob([text], { type: TYPES[asked.kind] + ";charset=utf-8" }), name);
    } catch {
      this.say("failed", SpecKD.NO_ANSWER);
    }
  }
  keep(blob, name) {
    SpecKD.download(blob, name);
    this.say("done", tr("Saved {name}.", { name }));
  }
}

SpecKD.createFiles = (options) => new Files(options);
