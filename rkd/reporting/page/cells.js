// Rows by test sets, over seeds; a cell opens its questions.

function cellsView() {
  const groups = new Map();
  for (const job of finished()) {
    const key = JSON.stringify([job.row, job.dataset, job.student, job.teacher]);
    groups.set(key, [...(groups.get(key) ?? []), job]);
  }
  const rows = [...groups.values()];
  const place = element("div");
  const names = unique(rows.flatMap((group) => group.flatMap((job) => Object.keys(own(job).tests))));
  const seeds = (group, name) => group.filter((job) => name in own(job).tests);
  const table = sortedTable({
    caption: "Accuracy or win rate in %, mean ± sample standard deviation over the jobs of a row (their number); a cell opens its questions",
    rows,
    columns: [
      { title: "Row", value: ([job]) => job.row },
      { title: "Dataset", value: ([job]) => job.dataset },
      { title: "Teacher → student", value: ([job]) => `${job.teacher} → ${job.student}` },
      ...names.map((name) => ({
        title: name,
        number: true,
        value: (group) => mean(seeds(group, name).map((job) => own(job).tests[name].accuracy)),
        cell: (group) => {
          const values = seeds(group, name).map((job) => own(job).tests[name].accuracy);
          if (!values.length) return null;
          const label = `${overSeeds(values)}, questions of ${group[0].row} on ${name}`;
          return element("button", { type: "button", class: "plain", "aria-label": label, onclick: () => openCell(place, seeds(group, name), name) }, overSeeds(values));
        },
      })),
    ],
  });
  return [element("div", { class: "scroll" }, table), place];
}

const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

function overSeeds(values) {
  const middle = mean(values);
  const variance = values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1);
  return `${percent(middle)}${values.length > 1 ? ` ± ${percent(Math.sqrt(variance))}` : ""} (${values.length})`;
}

/** The questions of a cell: in how many of its jobs the row's own model was right. */
async function openCell(place, group, name) {
  const tests = group.map((job) => own(job).tests[name]);
  const outcomes = (await Promise.all(tests.map((test) => block(test.answers)))).map((one) => one.outcomes);
  const list = element("div");
  const asked = new Map(); // jobs of one cell may have other questions, where a setting of the data differs
  for (const [place, test] of tests.entries()) {
    const { ids, questions } = await block(test.questions);
    ids.forEach((id, number) => {
      const one = asked.get(id) ?? { id, question: questions?.[number], marks: [] };
      one.marks.push([group[place], outcomes[place][number]]);
      asked.set(id, one);
    });
  }
  const all = [...asked.values()].map((one) => ({ ...one, share: mean(one.marks.map(([, outcome]) => outcome)) }));
  const kinds = [["all", "All", () => true], ["always", "Right in all", (one) => one.share === 1],
    ["never", "Right in none", (one) => one.share === 0], ["mixed", "In some", (one) => one.share > 0 && one.share < 1]];
  const draw = (kind) => list.replaceChildren(pagedList(all.filter(kinds.find(([one]) => one === kind)[2]), (one) => questionItem(one, group, name), "questions"));
  draw("all");
  const buttons = kinds.map(([kind, title, accepts]) => [kind, `${title} (${count(all.filter(accepts).length)})`]);
  const heading = element("h2", { tabindex: "-1" }, `${group[0].row} on ${name}, question by question`);
  place.replaceChildren(heading, choiceButtons("Which questions", buttons, "all", draw), list);
  heading.focus();
}

function questionItem({ id, question, marks }, group, name) {
  const open = (job) => {
    Object.assign(compared, { test: name, filter: "all", text: id, a: { job, role: own(job).role }, b: null });
    show("questions");
  };
  return element("article", { class: "item" },
    element("h3", {}, id),
    question && element("p", { class: "text" }, question),
    element("div", { class: "controls" }, marks.map(([job, outcome]) =>
      element("button", { type: "button", onclick: () => open(job) }, `seed ${job.seed}: `, mark(outcome)))));
}

/** Whether a response was right; for a preference its value. */
function mark(outcome) {
  if (outcome !== 0 && outcome !== 1) return element("span", {}, `preferred ${short(outcome)}`);
  return outcome ? element("span", { class: "right" }, "✓ right") : element("span", { class: "wrong" }, "✗ wrong");
}
