/* What a visitor of Decode takes home or brings along. */

SpecKD.createDecodeKeep = function ({ button, server, say, limits, page, copyLink }) {
  const { tr } = SpecKD;
  const files = SpecKD.createFiles({
    server,
    say,
    most: limits.bytes,
    label: tr("Record file"),
    reading: tr("Reading the record."),
    busy: () => page.asking.busy(),
    read: (text) => server.open_record(text),
    open: (result) => page.open(result, null, "opened"),
  });
  function save(kind) {
    const { shown } = page;
    if (!shown || !shown.id) {
      say("failed", tr("There is nothing to keep yet: let a decoding come to its end, or stop it."));
      return;
    }
    const words = SpecKD.wordsOfName(shown.decoding.config.prompt, "decoding");
    files.save({ id: shown.id, kind }, `speckd-decoding-${words}.${kind}`);
  }
  const menu = SpecKD.popup(button, "sk-popup-keep");
  menu.add(tr("Record as JSON"), tr("every round; opens here again"), () => save("json"));
  menu.add(tr("Page as HTML"), tr("one file, alive without a server"), () => save("html"));
  menu.add(tr("Copy link"), tr("everything that is set, in the address"), copyLink);
  menu.panel.append(files.input);
  menu.add(tr("Open a record…"), tr("a JSON file kept earlier"), () => files.choose());
};
