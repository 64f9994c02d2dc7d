/* The verdict on one token, drawn: the student's ten likeliest on the left, the teacher's ten on the right, lines
   between the same tokens, a boundary under the teacher's k-th row, and the proposal running across to its fate. */

const ROW = 21; // pixels
const SHOWN_DRAWS = 16;
const DRAW_HEIGHT = 46;

SpecKD.createVerdict = function (root, { onAlternative = null } = {}) {
  const { el, svg, number, percent, ordinal, shown } = SpecKD;
  let trace = null;
  let t = -1;
  let gated = null;
  let knobs = null;
  let parts = null; // the nodes that a moved slider touches
  let rowFocus = 0;

  const title = el("div", { class: "sk-verdict-title" });
  const where = el("span", { class: "sk-small sk-muted" });
  const heading = el("h2", { class: "sk-verdict-heading", "aria-live": "polite" });
  title.append(where, heading);
  const picture = svg("svg", { class: "sk-picture", role: "group" });
  const reason = el("div", { class: "sk-reason" });
  const sum = el("div", { class: "sk-sum" });
  const facts = el("table", { class: "sk-facts" });
  const chances = el("dl", { class: "sk-chances" });
  const card = el(
    "section",
    { class: "sk-verdict", "aria-label": "Verdict of one token" },
    title,
    picture,
    reason,
    sum,
    facts,
    chances,
  );
  root.append(card);

  const observer = new ResizeObserver(() => {
    if (parts && Math.abs(picture.clientWidth - parts.width) > 2) draw();
  });
  observer.observe(picture);

  function show(nextTrace, nextT, nextGated, nextKnobs) {
    const same = nextTrace === trace && nextT === t && parts !== null;
    [trace, t, gated, knobs] = [nextTrace, nextT, nextGated, nextKnobs];
    if (t < 0 || !trace) return;
    if (!same) draw();
    else settle();
  }

  const ruler = document.createElement("canvas").getContext("2d");
  /* Text cut to the room there is. Two tokens that differ by a leading space alone would look the same: then the space
     is shown. */
  function short(text, room, twins = new Set()) {
    const bare = shown(text);
    const full = twins.has(bare) && text.startsWith(" ") && text.trim() ? "␣" + bare : bare;
    ruler.font = `700 13px ${getComputedStyle(card).fontFamily}`;
    if (full.length < 5 || ruler.measureText(full).width <= room) return full;
    const characters = Array.from(full.slice(0, 80)); // never half a surrogate pair
    while (characters.length > 2 && ruler.measureText(characters.join("") + "…").width > room) characters.pop();
    return characters.join("") + "…";
  }

  function draw() {
    const width = Math.max(260, picture.clientWidth || 400);
    const gap = Math.round(Math.min(96, width * 0.2));
    const left = (width - gap) / 2; // the student's column ends here
    const right = left + gap; // the teacher's begins
    const top = 26;
    const y = (row) => top + row * ROW + ROW / 2;
    const student = trace.student_top;
    const teacher = trace.teacher_top;
    const n = student.ids[t].length;
    const proposal = trace.proposal_ids[t];
    const rank = trace.topk_threshold[t];
    const onList = rank <= n;
    const offRow = n + 0.35;
    const height = top + n * ROW + 34;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.setAttribute("height", String(height));
    const widest = Math.max(student.prob[t][0], teacher.prob[t][0], 1e-9);
    const bar = (p) => Math.max(1.5, (p / widest) * (left - 46));

    const zone = svg("rect", { class: "sk-zone", x: right, y: top, width: left, height: n * ROW });
    /** @type {SVGElement[]} */
    const nodes = [
      svg("text", {
        class: "sk-head sk-student-text",
        x: left - 4,
        y: 14,
        "text-anchor": "end",
        text: "student proposes",
      }),
      svg("text", { class: "sk-head sk-teacher-text", x: right + 4, y: 14, text: "teacher would say" }),
      zone,
    ];

    const lines = svg("g", { class: "sk-lines" });
    for (let i = 0; i < n; i++) {
      const j = teacher.ids[t].indexOf(student.ids[t][i]);
      if (j >= 0 && student.ids[t][i] !== proposal) {
        lines.append(svg("path", { d: curve(left + 3, y(i), right - 3, y(j)) }));
      }
    }
    nodes.push(lines);

    const twinsIn = (ids) => {
      const seen = ids.map((one) => shown(SpecKD.tokenText(trace, one)));
      return new Set(seen.filter((text, at) => seen.indexOf(text) !== at));
    };
    const twins = { student: twinsIn(student.ids[t]), teacher: twinsIn(teacher.ids[t]) };
    const rows = [];
    const row = (who, id, p, rankText, otherText, atRow) => {
      const isStudent = who === "student";
      const text = SpecKD.tokenText(trace, id);
      const edge = isStudent ? left : right;
      const live = onAlternative !== null;
      const strong = id === proposal;
      const group = svg("g", {
        class: `sk-row sk-${who}${strong ? " sk-proposal" : ""}${live ? " sk-live" : ""}`,
        role: live ? "button" : "img",
        tabindex: live ? "-1" : null,
        "data-id": id,
        "aria-label": `${who} ${ordinal(rankText)}: ${SpecKD.spoken(text)}, ${percent(p)}; ${otherText}${
          live ? ". Continue from here" : ""
        }`,
      });
      const label = svg("title", {
        text: `${shown(text)}  ${percent(p)}\n${otherText}${live ? "\nclick: continue the response from here" : ""}`,
      });
      const w = bar(p);
      group.append(
        label,
        svg("rect", {
          class: "sk-hit",
          x: isStudent ? 0 : right,
          y: y(atRow) - ROW / 2 + 1,
          width: left,
          height: ROW - 2,
          rx: 3,
        }),
        svg("rect", {
          class: "sk-bar",
          x: isStudent ? edge - w : edge,
          y: y(atRow) - ROW / 2 + 2,
          width: w,
          height: ROW - 4,
          rx: 2,
        }),
        svg("text", {
          class: "sk-word",
          x: isStudent ? edge - 24 : edge + 24,
          y: y(atRow) + 4.5,
          "text-anchor": isStudent ? "end" : "start",
          text: short(text, left - 66, twins[who]),
        }),
        svg("text", {
          class: "sk-rank",
          x: isStudent ? edge - 6 : edge + 6,
          y: y(atRow) + 4.5,
          "text-anchor": isStudent ? "end" : "start",
          text: rankText > 999 ? "" : String(rankText),
        }),
        svg("text", {
          class: "sk-prob",
          x: isStudent ? 2 : width - 2,
          y: y(atRow) + 4.5,
          "text-anchor": isStudent ? "start" : "end",
          text: percent(p),
        }),
      );
      rows.push(group);
      return group;
    };
    for (let i = 0; i < n; i++) {
      nodes.push(
        row(
          "student",
          student.ids[t][i],
          student.prob[t][i],
          i + 1,
          `teacher: ${percent(student.other_prob[t][i])}, ${ordinal(student.other_rank[t][i])}`,
          i,
        ),
      );
    }
    for (let j = 0; j < n; j++) {
      nodes.push(
        row(
          "teacher",
          teacher.ids[t][j],
          teacher.prob[t][j],
          j + 1,
          `student: ${percent(teacher.other_prob[t][j])}, ${ordinal(teacher.other_rank[t][j])}`,
          j,
        ),
      );
    }
    const end = onList ? rank - 1 : offRow;
    if (!onList) {
      nodes.push(
        svg("text", { class: "sk-rank", x: right + 6, y: y(offRow) + 4.5, text: ordinal(rank) }),
        svg("text", {
          class: "sk-word sk-off",
          x: right + 18 + 7.4 * ordinal(rank).length,
          y: y(offRow) + 4.5,
          text: short(SpecKD.tokenText(trace, proposal), left - 62 - 7.4 * ordinal(rank).length),
        }),
        svg("text", {
          class: "sk-prob",
          x: width - 2,
          y: y(offRow) + 4.5,
          "text-anchor": "end",
          text: percent(trace.proposal_teacher_prob[t]),
        }),
      );
    }

    const strong = svg("path", { class: "sk-strong", d: curve(left + 3, y(0), right - 3, y(end)) });
    const badge = svg(
      "g",
      { class: "sk-badge", transform: `translate(${right - 14}, ${y(end)})` },
      svg("circle", { r: 8.5 }),
      svg("path", { class: "sk-check", d: "M-4,0.5 L-1.2,3.3 L4.2,-3" }),
      svg("path", { class: "sk-cross", d: "M-3.2,-3.2 L3.2,3.2 M3.2,-3.2 L-3.2,3.2" }),
    );
    const boundary = svg(
      "g",
      { class: "sk-boundary" },
      svg("line", { x1: right - 30, x2: width, y1: 0, y2: 0 }),
      svg("text", { x: right - 34, y: 4, "text-anchor": "end" }),
    );
    nodes.push(strong, boundary, badge);

    picture.replaceChildren(...nodes);
    parts = { width, top, n, y, zone, boundary, strong, badge, onList, offRow, rank };
    roving(rows, n);
    settle();
  }

  const curve = (x0, y0, x1, y1) => `M${x0},${y0} C${(x0 + x1) / 2},${y0} ${(x0 + x1) / 2},${y1} ${x1},${y1}`;

  /* Rows are one tab stop: up and down walk a list, left and right change sides. */
  function roving(rows, n) {
    if (onAlternative === null) return;
    rowFocus = 0;
    rows[0].setAttribute("tabindex", "0");
    const move = (next) => {
      if (next < 0 || next >= rows.length) return;
      rows[rowFocus].setAttribute("tabindex", "-1");
      rowFocus = next;
      rows[rowFocus].setAttribute("tabindex", "0");
      rows[rowFocus].focus();
    };
    rows.forEach((group, i) => {
      const choose = () => onAlternative(t, Number(group.dataset.id));
      group.addEventListener("click", choose);
      group.addEventListener("keydown", (event) => {
        const goal = {
          ArrowDown: i + 1,
          ArrowUp: i - 1,
          ArrowRight: i < n ? i + n : i,
          ArrowLeft: i >= n ? i - n : i,
        }[event.key];
        if (goal !== undefined) {
          event.preventDefault();
          if (Math.floor(goal / n) === Math.floor(i / n) || event.key === "ArrowLeft" || event.key === "ArrowRight") {
            move(goal);
          }
        } else if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          choose();
        }
      });
    });
  }

  /* What moves with the gate: the boundary, the proposal's fate, the sentence and the arithmetic. */
  function settle() {
    const { y, n, zone, boundary, strong, badge, onList, offRow, rank, top } = parts;
    const accepted = gated.accepted[t] === 1;
    const k = knobs.k;
    const byRank = knobs.gate === "topk";
    const under = Math.min(k, n); // the row that the boundary lies under
    let at = top + under * ROW;
    if (k > n && !onList && rank <= k) at = y(offRow) + ROW / 2;
    boundary.style.transform = `translateY(${at}px)`;
    boundary.style.display = zone.style.display = byRank ? "" : "none";
    boundary.lastChild.textContent = `k = ${k}`;
    zone.setAttribute("height", Math.max(0, at - top));
    picture.classList.toggle("sk-is-accepted", accepted);
    picture.classList.toggle("sk-is-rejected", !accepted);
    picture.classList.toggle("sk-by-rank", byRank);
    strong.setAttribute("stroke-dasharray", byRank && !accepted ? "6 5" : "none");
    badge.style.display = byRank ? "" : "none";

    const proposalText = shown(SpecKD.tokenText(trace, trace.proposal_ids[t]));
    const word = accepted ? "accepted" : "rejected";
    where.textContent = `token ${t + 1} of ${trace.tokens.length}`;
    heading.replaceChildren(
      el("bdi", { class: "sk-quote", text: shown(trace.tokens[t]) }),
      el("span", { class: `sk-chip sk-chip-${word}`, text: (accepted ? "✓ " : "✕ ") + word }),
    );
    picture.setAttribute("aria-label", `Student proposes ${proposalText}, the teacher's ${ordinal(rank)}: ${word}`);
    explain(accepted, rank, proposalText);
    arithmetic();
    numbers();
  }

  function explain(accepted, rank, proposalText) {
    const quote = el("bdi", { class: "sk-quote", text: proposalText });
    if (knobs.gate === "topk") {
      const places = knobs.k === 1 ? "the teacher's first choice" : `among the teacher's ${knobs.k} likeliest`;
      reason.replaceChildren(
        el(
          "p",
          {},
          "Top-k asks: is the student's proposal ",
          quote,
          ` ${places}? It is the teacher's ${ordinal(rank)}, so ${accepted ? "this token counts in full" : masked()}.`,
        ),
      );
    } else if (knobs.gate === "speck") {
      reason.replaceChildren(drawRow(), drawSentence(accepted));
    } else {
      reason.replaceChildren(
        el(
          "p",
          {},
          "With all open every token counts in full, whatever the teacher thinks of ",
          quote,
          ": plain distillation.",
        ),
      );
    }
  }
  const masked =
    () => (knobs.beta === 0 ? "this token is masked" : `this token keeps a weight of ${number(knobs.beta)}`);

  function drawRow() {
    const draws = trace.draws;
    const count = Math.min(SHOWN_DRAWS, draws.ids[t].length);
    const width = parts.width;
    const step = width / SHOWN_DRAWS;
    const first = trace.speck_threshold[t];
    const row = svg("svg", {
      class: "sk-draws",
      viewBox: `0 0 ${width} ${DRAW_HEIGHT + 16}`,
      height: DRAW_HEIGHT + 16,
      role: "img",
      "aria-label": `The student's first ${count} draws`,
    });
    for (let j = 0; j < count; j++) {
      const x = j * step + 2;
      const w = step - 4;
      const a = draws.acceptance[t][j];
      const coin = draws.coin[t][j];
      const passed = coin < a;
      const kind = j + 1 === first && first <= knobs.k
        ? "sk-first"
        : j + 1 > knobs.k || j + 1 > first
        ? "sk-beyond"
        : "sk-failed";
      const h = a * DRAW_HEIGHT;
      const coinY = 1 + DRAW_HEIGHT - coin * DRAW_HEIGHT;
      row.append(
        svg(
          "g",
          { class: `sk-draw ${kind}` },
          svg("title", {
            text: `draw ${j + 1}: ${shown(SpecKD.tokenText(trace, draws.ids[t][j]))}\nmin(1, p/q) = ${
              number(a)
            }, coin ${number(coin)}: ${passed ? "passes" : "fails"}`,
          }),
          svg("rect", { class: "sk-slot", x, y: 1, width: w, height: DRAW_HEIGHT }),
          svg("rect", { class: "sk-fill", x, y: 1 + DRAW_HEIGHT - h, width: w, height: Math.max(0.5, h) }),
          svg("line", { class: "sk-coin", x1: x - 1, x2: x + w + 1, y1: coinY, y2: coinY }),
          svg("text", {
            x: x + w / 2,
            y: DRAW_HEIGHT + 13,
            "text-anchor": "middle",
            text: kind === "sk-first" ? "✓" : String(j + 1),
          }),
        ),
      );
    }
    return row;
  }
  function drawSentence(accepted) {
    const first = trace.speck_threshold[t];
    const draws = trace.draws;
    if (!accepted) {
      return el(
        "p",
        {},
        knobs.k === 1
          ? "The coin of the one draw falls above its bar min(1, p/q): "
          : `All ${knobs.k} coins fall above their bars min(1, p/q): `,
        masked() + ".",
      );
    }
    const known = first <= draws.ids[t].length;
    return el(
      "p",
      {},
      `Draw ${first}`,
      known ? ", " : "",
      known ? el("bdi", { class: "sk-quote", text: shown(SpecKD.tokenText(trace, draws.ids[t][first - 1])) }) : "",
      known
        ? `: coin ${number(draws.coin[t][first - 1])} lies under its bar ${number(draws.acceptance[t][first - 1])}.`
        : " is the first whose coin lies under its bar.",
    );
  }

  function arithmetic() {
    const kind = SpecKD.DIVERGENCES[knobs.divergence];
    const unit = kind.unit ? " " + kind.unit : "";
    const own = gated.shares[t];
    const total = gated.gated * gated.n;
    const plainTotal = gated.plain * gated.n;
    const term = (value, under, extra = "") =>
      el("span", { class: "sk-term" + extra }, el("b", { text: value }), el("small", { text: under }));
    sum.replaceChildren(
      term(number(gated.weights[t]), "weight"),
      el("span", { class: "sk-op", text: "×" }),
      term(number(gated.divergence[t]) + unit, kind.label),
      el("span", { class: "sk-op", text: "=" }),
      term(
        number(own) + unit,
        total > 0 && isFinite(total) ? `${percent(own / total)} of the loss` : "of the loss",
        " sk-result",
      ),
      term(
        plainTotal > 0 && isFinite(plainTotal) ? percent(gated.divergence[t] / plainTotal) : "–",
        "if not gated",
        " sk-aside",
      ),
    );
  }

  function numbers() {
    const cell = (text, who) => el("td", { class: `sk-${who}-text`, text });
    const at = (p, rank) => `${percent(p)}, ${ordinal(rank)}`;
    const line = (name, quoted, s, te) =>
      el(
        "tr",
        {},
        el(
          "th",
          { scope: "row" },
          name,
          quoted === null ? "" : el("bdi", { class: "sk-quote", text: short(quoted, 90) }),
        ),
        cell(s, "student"),
        cell(te, "teacher"),
      );
    facts.replaceChildren(
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("td", {}),
          el("th", { scope: "col", class: "sk-student-text", text: "student" }),
          el("th", { scope: "col", class: "sk-teacher-text", text: "teacher" }),
        ),
      ),
      el(
        "tbody",
        {},
        line(
          "proposal ",
          SpecKD.tokenText(trace, trace.proposal_ids[t]),
          at(trace.proposal_student_prob[t], 1),
          at(trace.proposal_teacher_prob[t], trace.topk_threshold[t]),
        ),
        line(
          "in the text ",
          trace.tokens[t],
          at(trace.token_student_prob[t], trace.token_student_rank[t]),
          at(trace.token_teacher_prob[t], trace.token_teacher_rank[t]),
        ),
        line("entropy", null, number(trace.student_entropy[t]) + " nats", number(trace.teacher_entropy[t]) + " nats"),
      ),
    );
    const chance = (
      name,
      formula,
      value,
    ) => [el("dt", {}, name, " ", el("span", { class: "sk-muted" }, ...[formula].flat())), el("dd", { text: value })];
    chances.replaceChildren(
      ...chance("one random draw passes", "1 − TVD", percent(SpecKD.acceptanceOfOneDraw(trace, t))),
      ...chance(
        `at least one of ${knobs.k} passes`,
        knobs.k === 1 ? "1 − TVD" : ["1 − TVD", el("sup", { text: String(knobs.k) })],
        percent(SpecKD.acceptanceOfAnyDraw(trace, t, knobs.k)),
      ),
      ...chance("the proposal passes", "min(1, p/q)", percent(trace.proposal_acceptance[t])),
    );
  }

  function clear() {
    trace = null;
    t = -1;
    parts = null;
    picture.replaceChildren();
    for (const part of [where, heading, reason, sum, facts, chances]) part.replaceChildren();
  }

  return { show, clear, element: card, destroy: () => observer.disconnect() };
};
