/* What a visitor takes home from a run: students, logs, reports, prompts, and the link. */

const TYPES = { csv: "text/csv", html: "text/html", md: "text/markdown", data: "application/jsonl" };
const ENDED = ["done", "stopped", "failed"];
const GONE = "The server no longer keeps this run: start it again, then keep it.";

function nameFor(run, racer, kind) {
  const letter = racer && run.racers.length > 1 ? racer.letter.toLowerCase() + "-" : "";
  return `speckd-${letter}${racer ? racer.gate.kind : "student"}.${kind}`;
}
/* Addresses of this server's own folder of kept files, and no others. */
const ours = ([, url]) => typeof url === "string" && /^kept\/[\w./-]+$/.test(url) && !url.includes("..");

/* The race as a picture and as a film, both made in this browser. */
function addShares(menu, run, { say, moment, host }) {
  const { tr } = SpecKD;
  const saved = async (made, name, words) => {
    try {
      SpecKD.download(await made(), name);
      say("done", words);
    } catch (error) {
      say("failed", error.message);
    }
  };
  const card = () => SpecKD.shareCard(SpecKD.raceCardOf({ run, moment: moment(), host: host() }));
  const onShare = (share) => say("writing", tr("Filming the race."), share);
  const film = () => SpecKD.raceFilm({ run, host: host(), onShare });
  const about = tr("1200 × 630, as links are shown");
  menu.add(tr("Card to share"), about, () => saved(card, "speckd-race.card.png", tr("The card is saved.")));
  const eight = tr("WebM, eight seconds");
  menu.add(tr("Race as a film"), eight, () => saved(film, "speckd-race.webm", tr("The film is saved.")));
}

SpecKD.createDistillKeep = function ({ server, say, copyLink, focusStart, moment, host }) {
  const { el } = SpecKD;
  const button = el("button", { type: "button", class: "sk-button sk-quiet", text: "Keep" });
  let menu = null;
  let home = null; // the run of which a student was taken home

  function fetchFile(url, name) {
    const link = el("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    say("done", `Saving ${name}.`);
  }
  async function save(run, job, racer, kind) {
    try {
      const answer = await server.keep({ run: job.id, racer, kind });
      if (!answer || answer.error || typeof answer.text !== "string") {
        say("failed", (answer && answer.error) || GONE);
        return;
      }
      const name = kind === "data" ? "data.jsonl" : nameFor(run, run.racers[racer], kind);
      SpecKD.download(new Blob([answer.text], { type: TYPES[kind] + ";charset=utf-8" }), name);
      say("done", `Saved ${name}.`);
    } catch {
      say("failed", SpecKD.NO_ANSWER);
    }
  }

  function addStudents(run) {
    for (const [name, url] of Object.entries(run.kept.files || {}).filter(ours)) {
      const racer = run.racers[Number((/(\d+)(\.zip)?$/.exec(name) || [])[1])];
      const whose = racer && run.racers.length > 1 ? ` ${racer.letter}` : "";
      const take = () => {
        home = run;
        fetchFile(url, nameFor(run, racer, "zip"));
      };
      menu.add(`Student${whose} as ZIP`, "adapter, safetensors: loads with PEFT", take);
    }
  }
  function addLogs(run, job) {
    for (const one of run.racers.filter((racer) => racer.rows.length)) {
      const whose = run.racers.length > 1 ? ` of ${one.letter}` : "";
      menu.add(`Log${whose} as CSV`, "one row a step", () => save(run, job, one.index, "csv"));
      menu.add(`Report${whose} as HTML`, "one file, without a server", () => save(run, job, one.index, "html"));
    }
    if (!job.pasted) return;
    menu.add("Prompts as JSONL", "data.jsonl, which the command reads", () => save(run, job, null, "data"));
  }
  /* Of the run on screen; `job` is the visitor's own that made it, if one did. */
  function show(run, job) {
    const mine = job && ENDED.includes(job.state) ? job : null;
    const key = `${run ? run.key : ""}/${mine !== null}/${run && run.kept ? 1 : 0}`;
    if (menu.panel.dataset.of === key) return;
    menu.panel.dataset.of = key;
    menu.clear();
    if (run && run.start) addShares(menu, run, { say, moment, host });
    if (run && run.kept) addStudents(run);
    if (mine && run.start) addLogs(run, mine);
    else menu.add("Start a run", "its student, log and report can be kept", focusStart);
    menu.add("Copy link", "every setting, in the address", copyLink);
  }
  return {
    button,
    show,
    tookHome: (run) => home === run,
    /* Once the button stands on the page. */
    mount() {
      menu = SpecKD.popup(button, "sk-popup-keep");
    },
  };
};
