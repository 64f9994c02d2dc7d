/* The curves of a training run: loss, ungated divergence and TAR against the same steps. The charts are empty figures
   from Python (app/figures.py) whose points are appended here and handed to Plotly.react. */
const NEAR = 0.09; // two letters nearer than this share of the chart's height would overlap

/* Charts side by side. `figures` are JSON texts by quantity; onStep hears where a visitor clicked. */
SpecKD.createRace = function (root, { plotly, figures, height = 150, lessons = {}, onStep = () => {} }) {
  const { el, number, percent } = SpecKD;
  const legend = el("div", { class: "sk-race-legend" });
  const row = el("div", { class: "sk-race-charts" });
  root.append(el("div", { class: "sk-race" }, legend, row));
  let run = null;
  let moment = 0;
  let upTo = Infinity; // points beyond this step are not there yet: a run that plays
  let frame = 0;
  let drawing = Promise.resolve(); // until Plotly has drawn what was asked for last

  const charts = Object.entries(figures).map(([quantity, text]) => {
    const figure = typeof text === "string" ? JSON.parse(text) : text;
    const { label, unit, held_out: heldOut } = figure.layout.meta;
    const box = el("div", { class: "sk-race-plot", role: "img" });
    const veil = el("div", { class: "sk-race-veil", "aria-hidden": "true" });
    const line = el("div", { class: "sk-race-moment", "aria-hidden": "true" });
    const head = el(
      "h2",
      { class: "sk-race-title" },
      el("span", { text: label }),
      el("span", { class: "sk-muted", text: ` ${unit}` }),
      lessons[quantity] ? SpecKD.lesson(...lessons[quantity]) : null,
    );
    row.append(el("section", { class: "sk-race-chart", "data-quantity": quantity }, head, box));
    const chart = { quantity, figure, label, unit, heldOut, box, veil, line, listening: false, last: "" };
    chart.plot = SpecKD.createPlot(box, {
      src: plotly,
      height,
      onDrawn: () => {
        listen(chart);
        place(chart);
      },
    });
    chart.plot.element.append(veil, line);
    return chart;
  });

  function listen(chart) {
    if (chart.listening) return;
    chart.listening = true;
    chart.plot.on("plotly_click", (event) => onStep(Math.round(event.points[0].x)));
  }

  const value = (quantity, point) => {
    const x = point[quantity];
    return x !== null && x !== undefined && Number.isFinite(x) ? x : null;
  };

  /* The whole range that is known, so that nothing rescales while a recorded run plays. */
  function range(chart) {
    const all = [];
    for (const racer of run.racers) {
      for (const point of racer.rows) all.push(value(chart.quantity, point));
      if (chart.heldOut) { for (const point of racer.heldOut) all.push(value(chart.quantity, point)); }
    }
    const known = all.filter((x) => x !== null);
    if (!known.length) return chart.figure.layout.yaxis.range;
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const pad = Math.max((high - low) * 0.1, chart.quantity === "tar" ? 0.02 : 0.05 * Math.max(Math.abs(high), 0.01));
    const bottom = low - pad;
    return [low >= 0 ? Math.max(0, bottom) - (bottom < 0 ? pad * 0.2 : 0) : bottom, high + pad];
  }

  function draw(chart) {
    const style = getComputedStyle(chart.box);
    const drawn = `${run.key}/${run.steps}/${upTo}/${style.color}/${
      run.racers.map((racer) => [racer.rows.length, chart.heldOut ? racer.heldOut.length : 0])
    }`;
    if (chart.last === drawn) return place(chart);
    chart.last = drawn;
    const colours = [style.getPropertyValue("--sk-student").trim(), style.getPropertyValue("--sk-second").trim()];
    const [low, high] = range(chart);
    const ends = [];
    const data = chart.figure.data.map((trace) => {
      const racer = run.racers[trace.meta.racer];
      const colour = colours[trace.meta.racer];
      const look = { ...trace, x: [], y: [] };
      if (trace.line) look.line = { ...trace.line, color: colour };
      if (trace.marker) look.marker = { ...trace.marker, color: colour };
      if (trace.textfont) look.textfont = { ...trace.textfont, color: colour };
      if (!racer) return look;
      const points = (trace.meta.part === "held_out" ? racer.heldOut : racer.rows).filter((point) =>
        point.step <= upTo
      );
      if (trace.meta.part === "letter") {
        const lastOne = points.length ? points[points.length - 1] : null;
        const y = lastOne && value(chart.quantity, lastOne);
        if (y !== null && y !== undefined) {
          look.x = [lastOne.step];
          look.y = [y];
          ends.push(look);
        }
        return look;
      }
      look.x = points.map((point) => point.step);
      look.y = points.map((point) => value(chart.quantity, point));
      return look;
    });
    if (
      ends.length === 2 && Math.abs(ends[0].y[0] - ends[1].y[0]) < NEAR * (high - low) &&
      Math.abs(ends[0].x[0] - ends[1].x[0]) < 0.06 * run.steps
    ) {
      const upper = ends[0].y[0] >= ends[1].y[0] ? 0 : 1;
      ends[upper].textposition = "top right";
      ends[1 - upper].textposition = "bottom right";
    }
    const steps = Math.max(1, run.steps);
    const layout = {
      ...chart.figure.layout,
      xaxis: { ...chart.figure.layout.xaxis, range: [-0.03 * steps, 1.03 * steps] },
      yaxis: { ...chart.figure.layout.yaxis, title: { text: "" }, range: [low, high] }, // the title stands above the chart
    };
    return chart.plot.show({ data, layout });
  }
  function drawAll() {
    cancelAnimationFrame(frame);
    drawing = new Promise((done) => {
      frame = requestAnimationFrame(() => done(run ? Promise.all(charts.map(draw)) : null));
    });
  }

  function place(chart) {
    const layout = chart.plot.area._fullLayout;
    if (!run || !layout || !layout._size) return;
    const { l, w, t, h } = layout._size;
    const [from, to] = layout.xaxis.range;
    const x = l + ((moment - from) / (to - from)) * w;
    const hidden = !run.racers.length || !Number.isFinite(x);
    const last = Math.max(0, ...run.racers.flatMap((racer) => racer.rows.slice(-1).map((point) => point.step)));
    chart.line.style.display = hidden || moment >= last ? "none" : "";
    chart.veil.style.display = hidden || moment >= last || upTo < last ? "none" : ""; // what is to come is not drawn, or pale
    for (const node of [chart.line, chart.veil]) {
      node.style.top = t + "px";
      node.style.height = h + "px";
    }
    chart.line.style.transform = `translateX(${x}px)`;
    chart.veil.style.transform = `translateX(${x + 1}px)`;
    chart.veil.style.width = Math.max(0, l + w - x - 1) + "px";
  }

  function describe() {
    for (const chart of charts) {
      const parts = run.racers.map((racer) => {
        const now = SpecKD.lastAt(racer.rows, moment);
        if (!now) return `${racer.letter}, ${racer.name}: no step yet`;
        const x = now[chart.quantity];
        return `${racer.letter}, ${racer.name}: ${
          chart.quantity === "tar" ? percent(x) : `${number(x)} nats`
        } at step ${now.step}`;
      });
      chart.box.setAttribute("aria-label", `${chart.label} against steps. ${parts.join(". ")}.`);
    }
  }

  function showLegend() {
    const names = run.racers.map((racer) =>
      el(
        "span",
        { class: `sk-race-name sk-racer-${racer.letter.toLowerCase()}` },
        SpecKD.racerMark(racer.index),
        el("b", { text: racer.letter }),
        el("bdi", { text: SpecKD.visible(racer.name) }),
      )
    );
    legend.replaceChildren(
      ...names,
      el(
        "span",
        { class: "sk-race-name sk-muted" },
        SpecKD.svg(
          "svg",
          { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
          SpecKD.svg("circle", { cx: 6, cy: 6, r: 4, class: "sk-race-ring" }),
        ),
        "held out",
      ),
    );
  }

  const theme = new MutationObserver(() => drawAll());
  theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });

  return {
    /* The run has more events, or is another one. */
    show(next, { step = moment, until = Infinity } = {}) {
      const other = next !== run || (run.racers.length && legend.childElementCount === 0);
      run = next;
      moment = step;
      upTo = until;
      if (other || legend.dataset.racers !== String(run.racers.length)) {
        legend.dataset.racers = String(run.racers.length);
        showLegend();
      }
      describe();
      drawAll();
    },
    setMoment(step, until = Infinity) {
      moment = step;
      if (!run) return;
      describe();
      if (until !== upTo) {
        upTo = until;
        drawAll();
      }
      charts.forEach(place);
    },
    drawn: () => drawing,
    charts,
    destroy: () => {
      theme.disconnect();
      cancelAnimationFrame(frame);
      charts.forEach((chart) => chart.plot.destroy());
    },
  };
};
