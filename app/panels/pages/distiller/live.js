/* A live run as it comes: updates bring events with the place of the first; what was missed is asked for again. */

const BETWEEN_PAINTS = 150; // milliseconds
const SLOWEST_PAINT = 2000;

/* Events into the run of a job. Where some are missing, the server's log is asked once for all of them. */
SpecKD.catchUp = function (job, { server, isCurrent, onGrown }) {
  const { run, missed } = job;
  missed.sort((a, b) => a.from - b.from);
  let grown = false;
  while (missed.length && missed[0].from <= run.n) {
    const { from, events } = missed.shift();
    const fresh = events.slice(run.n - from);
    run.add(fresh);
    grown = grown || fresh.length > 0;
  }
  if (grown) onGrown();
  if (!missed.length || job.asking) return;
  job.asking = true;
  server.log({ run: job.id, from: run.n }).then((answer) => {
    job.asking = false;
    if (!isCurrent(job) || !answer || !answer.events) return;
    const from = Number.isInteger(answer.from) ? answer.from : run.n;
    missed.push({ from, events: JSON.parse(answer.events) });
    const reachable = missed.some((one) => one.from <= run.n && one.from + one.events.length > run.n);
    if (reachable) SpecKD.catchUp(job, { server, isCurrent, onGrown });
  }, () => {
    job.asking = false;
  });
};

/* Rows of a fast machine come quicker than anybody can read or this browser can draw: they are drawn together, and
   drawing takes a quarter of the time at most, so that a click is always heard. */
SpecKD.createPainter = function (paint, drawn) {
  let painting = false;
  let wanted = false;
  return function grew() {
    wanted = true;
    if (painting) return;
    painting = true;
    wanted = false;
    const begun = performance.now();
    paint();
    const rest = () =>
      setTimeout(() => {
        painting = false;
        if (wanted) grew();
      }, Math.max(BETWEEN_PAINTS, 3 * (performance.now() - begun)));
    // no frames, no charts: a hidden page
    Promise.race([drawn(), new Promise((done) => setTimeout(done, SLOWEST_PAINT))]).then(rest, rest);
  };
};
