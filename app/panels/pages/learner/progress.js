/* Which steps were read and what was predicted right at once: kept in this browser, and nowhere at all where that is
   not allowed. */

const STORE = "speckd-lab.learn";

function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE) || "{}");
    return { seen: found.seen || {}, first: found.first || {}, last: found.last || null };
  } catch {
    return { seen: {}, first: {}, last: null };
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
    score(lesson) {
      const mine = Object.entries(kept.first).filter(([name]) => name.startsWith(lesson.id + "."));
      return { right: mine.filter(([, right]) => right).length, tried: mine.length, all: lesson.exercises };
    },
    words() {
      const answers = Object.values(kept.first);
      return answers.length ? `${answers.filter(Boolean).length} of ${answers.length} predicted right` : "";
    },
  };
};
