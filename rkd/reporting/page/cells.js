// Tables over seeds: all jobs by row and test set, or a table of a sweep; a cell opens its questions.

let shownTable = ""; // the name of a sweep's table; empty: all jobs

function cellsView() {
  const place = element("div", { class: "scroll" });
  const opened = element("div"); // the questions of a cell
  const notes = element("div");
  const draw = () => {
    const table = tables.find(({ name }) => name === shownTable);
    place.replaceChildren(table ? sweepTable(table, opened) : rowsTable(opened));
    notes.replaceChildren(...(table ? tableNotes(table) : []));
    opened.replaceChildren();
  };
  const names = [["", "all jobs"], ...tables.map(({ name, title }) => [name, `${name}: ${title}`])];
  const change = (name) => {
    shownTable = name;
    draw();
  };
  draw();
  const select = tables.length > 0 && selectField("Table", names, shownTable, change);
  return [element("div", { class: "controls" }, select), place, notes, opened];
}

/** All jobs: a line for each row with one setting, a column for each test set. */
function rowsTable(opened) {
  const rows = rowsOfJobs();
  const names = unique(rows.flatMap((group) => group.flatMap((job) => Object.keys(own(job).tests))));
  const values = (group, name) => group.flatMap((job) => own(job).tests[name]?.accuracy ?? []);
  const column = (name) => ({
    title: name,
    number: true,
    value: (group) => mean(values(group, name)),
    cell: (group) => {
      const found = values(group, name);
      const cell = { row: group[0].line, group, test: name, modelOf: own };
      return found.length ? cellButton(overSeeds(found), cell, opened) : null;
    },
  });
  return sortedTable({
    caption: "Accuracy or win rate in %, mean ± sample standard deviation over the jobs of a row (their number)",
    rows,
    columns: [
      { title: "Row", value: ([job]) => job.line },
      { title: "Dataset", value: ([job]) => job.dataset },
      { title: "Teacher → student", value: ([job]) => `${job.teacher} → ${job.student}` },
      ...names.map(column),
    ],
  });
}

/** The jobs of each line: of one row and its models, and of one setting where a row has several jobs of a seed. */
function rowsOfJobs() {
  const groups = Map.groupBy(finished(), (job) => JSON.stringify([job.row, job.dataset, job.student, job.teacher]));
  return [...groups.values()].flatMap((group) => {
    const isMixed = unique(group.map((job) => job.seed)).length < group.length;
    for (const job of group) job.line = isMixed ? `${job.row}, setting ${job.setting}` : job.row;
    return [...Map.groupBy(group, (job) => job.line).values()];
  });
}

/** A table as its sweep describes it, with the published values. */
function sweepTable({ title, columns, lines }, opened) {
  const column = ({ label, test_set, unit }, place) => ({
    title: label,
    number: true,
    value: ({ cells }) => mean(cells[place].values),
    cell: ({ row, model, cells }) => {
      const { values, jobs: places } = cells[place];
      const modelOf = (job) => (model === "own" ? own(job) : job.models.find(({ role }) => role === model));
      const cell = { row, group: places.map((one) => jobs[one]), test: test_set, modelOf };
      const shown = values.length ? overSeeds(values, unit) : null;
      return shown && test_set ? cellButton(shown, cell, opened) : shown;
    },
  });
  const ofPaper = ({ label, unit }, place) => ({
    title: `${label}, paper`,
    number: true,
    value: ({ cells }) => cells[place].published,
    cell: ({ cells: { [place]: cell } }) => (unit === "percent" ? cell.published?.toFixed(1) : short(cell.published)),
  });
  const isPublished = (place) => lines.some(({ cells }) => cells[place].published !== null);
  return sortedTable({
    caption: `${title}; mean ± sample standard deviation (number of seeds), shares in %`,
    rows: lines,
    columns: [
      { title: "Models", value: ({ group }) => group },
      { title: "Row", value: ({ row }) => row },
      ...columns.flatMap((one, place) => [column(one, place), ...(isPublished(place) ? [ofPaper(one, place)] : [])]),
    ],
  });
}

function tableNotes({ notes }) {
  const items = notes.map((note) => element("li", {}, note));
  return items.length ? [element("details", {}, element("summary", {}, "Notes"), element("ul", {}, items))] : [];
}

/** A cell's value, which opens its questions. A cell: {row, group, test, modelOf}; modelOf(job) is the model shown. */
function cellButton(shown, cell, opened) {
  const label = `${shown}, questions of ${cell.row} on ${cell.test}`;
  const open = () => openCell(cell, opened);
  return element("button", { type: "button", class: "plain", "aria-label": label, onclick: open }, shown);
}

function overSeeds(values, unit = "percent") {
  const spread = unique(values).length > 1 ? ` ± ${inUnit(deviation(values), unit)}` : "";
  return `${inUnit(mean(values), unit)}${spread} (${values.length})`;
}

function inUnit(value, unit) {
  return unit === "percent" ? percent(value) : unit === "seconds" ? duration(value) : short(value);
}

const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

/** The sample standard deviation. */
function deviation(values) {
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}

/** The questions of a cell, and in which of its jobs the model was right. */
async function openCell({ row, group, test: name, modelOf }, opened) {
  const asked = new Map(); // jobs of one cell may have other questions, where a setting of the data differs
  for (const job of group.filter((one) => modelOf(one)?.tests[name])) {
    const test = modelOf(job).tests[name];
    const [{ ids, questions }, { outcomes }] = await Promise.all([block(test.questions), block(test.answers)]);
    ids.forEach((id, number) => {
      const one = asked.get(id) ?? { id, question: questions?.[number], marks: [] };
      one.marks.push([job, outcomes[number]]);
      asked.set(id, one);
    });
  }
  const all = [...asked.values()].map((one) => ({ ...one, share: mean(one.marks.map(([, outcome]) => outcome)) }));
  const kinds = [
    ["all", "All", () => true],
    ["always", "Right in all", ({ share }) => share === 1],
    ["never", "Right in none", ({ share }) => share === 0],
    ["some", "In some", ({ share }) => share > 0 && share < 1],
  ];
  const list = element("div");
  const draw = (kind) => {
    const shown = all.filter(kinds.find(([one]) => one === kind)[2]);
    list.replaceChildren(pagedList(shown, (one) => questionItem(one, name, modelOf), "questions"));
  };
  draw("all");
  const buttons = kinds.map(([kind, title, accepts]) => [kind, `${title} (${count(all.filter(accepts).length)})`]);
  const heading = element("h2", { tabindex: "-1" }, `${row} on ${name}, question by question`);
  opened.replaceChildren(heading, choiceButtons("Which questions", buttons, "all", draw), list);
  heading.focus();
}

function questionItem({ id, question, marks }, name, modelOf) {
  const open = (job) => {
    Object.assign(compared, { test: name, filter: "all", text: id, a: { job, role: modelOf(job).role }, b: null });
    show("questions");
  };
  return element(
    "article",
    { class: "item" },
    element("h3", {}, id),
    question && element("p", { class: "text" }, question),
    element(
      "div",
      { class: "controls" },
      marks.map(([job, outcome]) =>
        element(
          "button",
          { type: "button", onclick: () => open(job) },
          `seed ${job.seed}: `,
          mark(outcome, modelOf(job).tests[name].measure),
        ),
      ),
    ),
  );
}

/** Whether a response was right; for a preference its value. */
function mark(outcome, measure) {
  if (measure === "win rate") return element("span", {}, `preferred ${short(outcome)}`);
  return outcome ? element("span", { class: "right" }, "✓ right") : element("span", { class: "wrong" }, "✗ wrong");
}
