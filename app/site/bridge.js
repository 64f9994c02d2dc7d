/* What gradio is to a panel in the app, on a page without a server: data that was written down, and one sentence where
   a model would be needed. The answers are files, fetched when a panel asks for them (app/site/answers.py). */

const { tr } = SpecKD;

/* How an answer is looked up: JSON, names in order, without what is null. answers.py writes the same. */
function keyOf(argument) {
  if (argument === null || typeof argument !== "object") return JSON.stringify(argument ?? null);
  const known = Object.keys(argument).filter((name) => argument[name] !== null && argument[name] !== undefined).sort();
  return JSON.stringify(Object.fromEntries(known.map((name) => [name, argument[name]])));
}

/* A file that Inspect keeps is the recorded one; a page has its gate and its token set in it. */
function withKnobs(answer, { kind, knobs, pin }) {
  if (kind !== "html") return answer;
  const options = JSON.stringify({ knobs, pin }).replaceAll("<", "\\u003c");
  const block = /(<script type="application\/json" id="options">).*?(<\/script>)/s;
  return { text: answer.text.replace(block, (_, before, after) => before + options + after) };
}
/* Draws of the final test are taken in turn from those that were written down. */
function keptDraw(asked, index) {
  if (!Number.isInteger(asked.draw)) return asked;
  const drawn = Object.keys(index.lesson || {}).map((key) => JSON.parse(key)).filter((one) =>
    one.id === asked.id && one.language === asked.language
  );
  return { ...asked, draw: asked.draw % drawn.length };
}
/** @type {Record<string, { ask?: Function, tell?: Function }>} */
const OWN_WAYS = {
  "inspector/export": { ask: ({ id, kind }) => ({ id, kind }), tell: withKnobs },
  "learner/lesson": { ask: keptDraw },
};

SpecKD.noModel = () => tr("No model runs on this page: it shows what was recorded. The app has the models.");

/* The server of one panel: `index` has the file of every answer. `onWish` hears when a model would be needed. */
SpecKD.createRecordedServer = function (part, index, onWish) {
  const files = new Map(); // fetched once
  const fetched = (file) => {
    if (!files.has(file)) {
      const reading = fetch(file).then((answer) => {
        if (!answer.ok) throw new Error(`network: ${answer.status}`);
        return answer.json();
      });
      reading.catch(() => files.delete(file));
      files.set(file, reading);
    }
    return files.get(file);
  };
  async function answer(name, argument) {
    const { ask = (asked) => asked, tell = (told) => told } = OWN_WAYS[`${part}/${name}`] || {};
    const file = (index[name] || {})[keyOf(ask(argument, index))];
    if (file) return tell(await fetched(file), argument);
    onWish();
    return { error: SpecKD.noModel() };
  }
  const known = {
    stop: () => Promise.resolve(true),
    status: () => Promise.resolve({ state: "done", text: SpecKD.noModel(), share: null }),
  };
  return new Proxy(known, { get: (_, name) => known[name] || ((argument) => answer(String(name), argument)) });
};

/* Mounts a panel as gradio does: its element, its data, and a trigger that answers with the one sentence. */
SpecKD.mountRecorded = function (part, element, { value, options, answers }, onWish) {
  const props = { value, options };
  const hearers = [];
  const trigger = (event, data) => {
    if (event !== "run") return;
    onWish();
    props.value = { run: data.run, state: "failed", text: SpecKD.noModel() };
    for (const hear of hearers) hear();
  };
  const server = SpecKD.createRecordedServer(part, answers, onWish);
  SpecKD.mount(part, element, props, trigger, server, (_, hear) => hearers.push(hear));
};
