// All jobs as a table, and one job in full.

const FIELDS = [
  ["row", "Row"],
  ["dataset", "Dataset"],
  ["student", "Student"],
  ["teacher", "Teacher"],
  ["tables", "Table"],
];
const filters = { text: "" };

const own = (job) => job.models.at(-1);
const mainTest = (job) => (job.models.length ? Object.values(own(job).tests)[0] : null);
const finished = () => jobs.filter((job) => job.models.length);
const chosenJobs = () => jobs.filter((job) => chosen.has(job));

function choose(job, isChosen) {
  if (isChosen) chosen.add(job);
  else chosen.delete(job);
  Object.assign(compared, NO_SIDES);
  Object.assign(rolled, NO_SIDES);
  sayChosen();
}

function sayChosen() {
  document.getElementById("chosen").textContent = `${chosen.size} of ${count(jobs.length)} jobs chosen`;
}

const JOB_COLUMNS = [
  {
    title: "Chosen",
    cell: (job) =>
      element("input", {
        type: "checkbox",
        checked: chosen.has(job),
        "aria-label": `Choose ${job.title}`,
        onchange: (event) => choose(job, event.target.checked),
      }),
  },
  { title: "Row", value: (job) => job.row, cell: jobLink },
  { title: "Seed", value: (job) => job.seed, number: true },
  { title: "Dataset", value: (job) => job.dataset },
  { title: "Student", value: (job) => job.student },
  { title: "Teacher", value: (job) => job.teacher },
  {
    title: "Accuracy % [95 %]",
    value: (job) => mainTest(job)?.accuracy,
    number: true,
    cell: (job) => (mainTest(job) ? withInterval(mainTest(job)) : "failed"),
  },
  { title: "Time", value: (job) => job.seconds, cell: (job) => duration(job.seconds), number: true },
  { title: "Tokens", value: (job) => job.tokens, cell: (job) => count(job.tokens), number: true },
  { title: "Revision", value: (job) => job.revision, cell: (job) => job.revision?.slice(0, 7) },
  { title: "Made", value: (job) => job.created, cell: (job) => job.created.slice(0, 10) },
];

function jobLink(job) {
  return element(
    "button",
    { type: "button", class: "plain", onclick: () => show(`job-${jobs.indexOf(job)}`) },
    job.row,
  );
}

function jobsView() {
  const place = element("div"),
    said = element("p", { role: "status" });
  let shown = jobs;
  const draw = () => {
    const words = filters.text.toLowerCase().split(/\s+/);
    shown = jobs.filter((job) => {
      const text = [job.title, job.student, job.teacher, job.revision, job.name].join(" ").toLowerCase();
      return (
        words.every((word) => text.includes(word)) &&
        FIELDS.every(([key]) => !filters[key] || [job[key]].flat().includes(filters[key]))
      );
    });
    said.textContent = `${count(shown.length)} of ${count(jobs.length)} jobs`;
    place.replaceChildren(
      sortedTable({
        caption: "Accuracy, or win rate, of each row's own model on its main test set",
        columns: JOB_COLUMNS,
        rows: shown,
      }),
    );
  };
  const chooseAll = (isChosen) => {
    (isChosen ? shown : jobs).forEach((job) => choose(job, isChosen));
    draw();
  };
  const selects = FIELDS.map(([key, title]) => {
    const values = unique(jobs.flatMap((job) => job[key])).sort();
    return (
      values.length > 0 &&
      selectField(title, [["", "all"], ...values], filters[key], (value) => {
        filters[key] = value;
        draw();
      })
    );
  });
  const search = searchField("Search", filters.text, (value) => {
    filters.text = value;
    draw();
  });
  draw();
  return [
    element("div", { class: "controls" }, search, selects),
    element(
      "div",
      { class: "controls" },
      element("button", { type: "button", onclick: () => chooseAll(true) }, "Choose all shown"),
      element("button", { type: "button", onclick: () => chooseAll(false) }, "Choose none"),
    ),
    said,
    element("div", { class: "scroll" }, place),
  ];
}

async function jobView(job) {
  const { config, comparisons, notes } = await block(job.detail);
  const tests = job.models.flatMap((model) =>
    Object.entries(model.tests).map(([name, test]) => ({ role: model.role, name, ...test })),
  );
  const facts = [
    ["Folder", job.folder],
    ["Revision", job.revision],
    ["Student", job.student],
    ["Teacher", job.teacher],
    ["Time", duration(job.seconds)],
    ["Failure", job.failure],
    ["Kept in the tables", job.tables.join(", ")],
    ...notes.map((note) => ["Note", note]),
  ];
  return [
    element(
      "ul",
      {},
      facts.filter(([, value]) => value).map(([name, value]) => element("li", {}, `${name}: ${value}`)),
    ),
    tests.length &&
      sortedTable({
        caption: "Every model on every test set",
        rows: tests,
        columns: [
          { title: "Model", value: (one) => one.role },
          { title: "Test set", value: (one) => one.name },
          { title: "n", value: (one) => one.n, number: true },
          { title: "% [95 %]", value: (one) => one.accuracy, cell: withInterval, number: true },
          { title: "Measure", value: (one) => one.measure },
          { title: "Questions", cell: (one) => questionsButton(job, one.role, one.name) },
        ],
      }),
    comparisons.length &&
      sortedTable({
        caption: "Exact tests on the same questions",
        rows: comparisons,
        columns: [
          { title: "First", value: (one) => one.first },
          { title: "Second", value: (one) => one.second },
          { title: "Test set", value: (one) => one.test_set },
          { title: "Points", value: (one) => one.difference, cell: (one) => percent(one.difference), number: true },
          { title: "Only first", value: (one) => one.only_first, number: true },
          { title: "Only second", value: (one) => one.only_second, number: true },
          { title: "p", value: (one) => one.p_value, cell: (one) => short(one.p_value), number: true },
        ],
      }),
    element(
      "details",
      {},
      element("summary", {}, "Configuration"),
      element("pre", {}, JSON.stringify(config, null, 1)),
    ),
  ].filter(Boolean);
}

function questionsButton(job, role, test) {
  const open = () => {
    Object.assign(compared, { test, filter: "all", text: "", a: { job, role }, b: null });
    show("questions");
  };
  return element("button", { type: "button", class: "plain", onclick: open }, "look at them");
}
