/* Which steps were read and what was predicted right at once: kept in this browser, and nowhere at all where that is
   not allowed. */

const STORE = "speckd-lab.learn";

function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE) || "{}");
    return { seen: found.seen || {}, first: found.first || {}, last: found.last || null, draw: found.draw };
  } catch {
    return { seen: {}, first: {}, last: null, draw: null };
  }
}

SpecKD.createProgress = function () {
  const kept = recall();
  const keep = () => {
    try {
      localStorage.setItem(STORE, JSON.stringify(kept));
    } catch { /* a private window: nothing is kept */ }
  };
  return {
    last: () => kept.last,
    seen: (lesson) => (kept.seen[lesson.id] || []).length,
    read(lesson, step) {
      kept.last = { lesson: lesson.id, step };
      kept.seen[lesson.id] = [...new Set([...(kept.seen[lesson.id] || []), step])];
      keep();
    },
    answered: (task) => task.id in kept.first,
    /* The first answer counts. */
    answer(task, right) {
      if (task.id in kept.first) return;
      kept.first[task.id] = right;
      keep();
    },
    /* How the cases of one draw of the final test went: [case, right], of those that were answered. */
    cases: (cases) => cases.filter(({ id }) => id in kept.first).map((one) => [one, kept.first[one.id]]),
    /* The number of the final test's draw; a new one takes the old one's place. */
    draw() {
      if (!Number.isInteger(kept.draw)) this.drawAnew();
      return kept.draw;
    },
    drawAnew() {
      for (const name of Object.keys(kept.first)) if (name.startsWith("final-")) delete kept.first[name];
      kept.draw = crypto.getRandomValues(new Uint16Array(1))[0];
      keep();
    },
    score(lesson) {
      const mine = Object.entries(kept.first).filter(([name]) =>
        name.startsWith(lesson.id + ".") || name.startsWith(lesson.id + "-")
      );
      return { right: mine.filter(([, right]) => right).length, tried: mine.length, all: lesson.exercises };
    },
    words() {
      const answers = Object.values(kept.first);
      const fields = { right: answers.filter(Boolean).length, all: answers.length };
      return answers.length ? SpecKD.tr("{right} of {all} predicted right", fields) : "";
    },
  };
};
