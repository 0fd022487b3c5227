// Responses of two models side by side: to test questions, and in rollouts with each part of their reward.

const NO_SIDES = { a: null, b: null }; // the chosen jobs take both sides
const compared = { test: null, filter: "all", text: "", ...NO_SIDES };
const rolled = { text: "", ...NO_SIDES };
const OUTCOMES = [
  ["all", "All", () => true],
  ["only_a", "Only A right", (a, b) => a > 0.5 && b <= 0.5],
  ["only_b", "Only B right", (a, b) => a <= 0.5 && b > 0.5],
  ["both", "Both right", (a, b) => a > 0.5 && b > 0.5],
  ["neither", "Both wrong", (a, b) => a <= 0.5 && b <= 0.5],
];
const ONE_SIDED = [
  ["all", "All", () => true],
  ["right", "Right", (a) => a > 0.5],
  ["wrong", "Wrong", (a) => a <= 0.5],
];

const sides = () => finished().flatMap((job) => job.models.map(({ role, tests }) => ({ job, role, tests })));

/** A field that selects a side; its values are places in the list of sides. */
function sideField(title, all, side, change, mayBeNone) {
  const place = all.findIndex((one) => one.job === side?.job && one.role === side?.role);
  const options = all.map((one, number) => [
    number,
    one.role === undefined || one.role === one.job.row ? nameOf(one.job) : `${one.role} (${nameOf(one.job)})`,
  ]);
  return selectField(title, mayBeNone ? [[-1, "none"], ...options] : options, place, (value) =>
    change(all[value] ?? null),
  );
}

async function questionsView() {
  const all = sides();
  if (!all.length) return [element("p", {}, "No job has finished.")];
  const first = chosenJobs().filter((job) => job.models.length);
  const ownSide = (job) => ({ job, role: own(job).role });
  if (!compared.a) {
    compared.a = ownSide(first[0] ?? finished()[0]);
    compared.b = first[1] ? ownSide(first[1]) : null;
  }
  const place = element("div"),
    fields = element("div", { class: "controls" });
  const testsOf = (side) => side.job.models.find(({ role }) => role === side.role).tests;
  const draw = async () => {
    const tests = testsOf(compared.a);
    if (!(compared.test in tests)) compared.test = Object.keys(tests)[0];
    const [a, b] = [compared.a, compared.b && compared.test in testsOf(compared.b) ? compared.b : null];
    const asked = await block(tests[compared.test].questions);
    const [ofA, ofB] = await Promise.all([a, b].map((side) => side && block(testsOf(side)[compared.test].answers)));
    const placesInB =
      b && new Map((await block(testsOf(b)[compared.test].questions)).ids.map((id, number) => [id, number]));
    const rows = asked.ids
      .map((id, number) => ({
        id,
        question: asked.questions?.[number],
        gold: asked.gold_answers?.[number],
        a: responseOf(ofA, number),
        b: b && placesInB.has(id) ? responseOf(ofB, placesInB.get(id)) : null,
      }))
      .filter((row) => !b || row.b);
    drawQuestions(place, rows, b);
    if (!asked.questions || [ofA, ofB].some((side) => side && !side.responses)) {
      place.prepend(
        element("p", {}, "Jobs of earlier versions did not keep the texts of test questions or responses."),
      );
    }
  };
  const change = (key) => (value) => {
    compared[key] = value;
    redraw();
  };
  const redraw = () => {
    const names = Object.keys(testsOf(compared.a)).map((name) => [name, name]);
    testField.replaceWith((testField = selectField("Test set", names, compared.test, change("test"))));
    draw();
  };
  let testField = element("span");
  fields.append(
    sideField("Model A", all, compared.a, change("a")),
    sideField("Model B", all, compared.b, change("b"), true),
    testField,
  );
  redraw();
  return [fields, place];
}

function responseOf({ outcomes, answers, responses }, number) {
  return { outcome: outcomes[number], answer: answers?.[number], text: responses?.[number] ?? null };
}

function drawQuestions(place, rows, b) {
  const list = element("div"),
    kinds = b ? OUTCOMES : ONE_SIDED;
  if (!kinds.some(([kind]) => kind === compared.filter)) compared.filter = "all";
  const accepts = (kind, row) => kinds.find(([one]) => one === kind)[2](row.a.outcome, row.b?.outcome);
  const fill = () => {
    const words = compared.text.toLowerCase();
    const found = (row) =>
      [row.id, row.question, row.a.text, row.a.answer, row.b?.text].some((text) => text?.toLowerCase().includes(words));
    const shown = rows.filter((row) => accepts(compared.filter, row) && (!words || found(row)));
    list.replaceChildren(pagedList(shown, answeredItem, "questions"));
  };
  const buttons = kinds.map(([kind, title]) => [
    kind,
    `${title} (${count(rows.filter((row) => accepts(kind, row)).length)})`,
  ]);
  const search = searchField("Search in questions and responses", compared.text, (value) => {
    compared.text = value;
    fill();
  });
  fill();
  const press = (kind) => {
    compared.filter = kind;
    fill();
  };
  place.replaceChildren(
    choiceButtons("Which questions", buttons, compared.filter, press),
    element("div", { class: "controls" }, search),
    list,
  );
}

function answeredItem(row) {
  return element(
    "article",
    { class: "item" },
    element("h3", {}, row.id),
    row.question && element("p", { class: "text" }, row.question),
    row.gold && element("p", { class: "faint text" }, `Gold answer: ${row.gold}`),
    element("div", { class: "sides" }, responseSide("A", row.a), row.b && responseSide("B", row.b)),
  );
}

function responseSide(title, { outcome, answer, text }) {
  return element(
    "section",
    { class: "side" },
    element(
      "h3",
      {},
      `${title}: `,
      mark(outcome),
      answer === undefined || text === answer ? "" : `, answer ${answer ?? "none"}`,
    ),
    text !== null && element("p", { class: "text" }, text),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Rollouts
// ---------------------------------------------------------------------------------------------------------------------

async function rolloutsView() {
  const all = jobs.filter((job) => job.rollouts).map((job) => ({ job }));
  if (!all.length) return [element("p", {}, "No job has kept rollouts of its reinforcement learning.")];
  const first = chosenJobs()
    .filter((job) => job.rollouts)
    .map((job) => ({ job }));
  if (!rolled.a) Object.assign(rolled, { a: first[0] ?? all[0], b: first[1] ?? null });
  const place = element("div");
  const draw = async () => {
    const [ofA, ofB] = await Promise.all([rolled.a, rolled.b].map((side) => side && block(side.job.rollouts)));
    const words = rolled.text.toLowerCase();
    const items = paired(ofA, ofB).filter(
      ([a]) => !words || `${a.question} ${a.response}`.toLowerCase().includes(words),
    );
    place.replaceChildren(
      element(
        "p",
        {},
        rolled.b
          ? "Questions that both jobs sampled, at the nearest points of their trainings."
          : "Sampled responses in the order of training.",
      ),
      pagedList(items, rolloutItem, "responses"),
    );
  };
  const change = (key) => (value) => {
    rolled[key] = value;
    draw();
  };
  draw();
  return [
    element(
      "div",
      { class: "controls" },
      sideField("Model A", all, rolled.a, change("a")),
      sideField("Model B", all, rolled.b, change("b"), true),
      searchField("Search in questions and responses", rolled.text, change("text")),
    ),
    place,
  ];
}

/** Each response of A, with B's response to the same question that is nearest in episodes; alone without B. */
function paired(ofA, ofB) {
  if (!ofB) return ofA.map((a) => [a, null]);
  const known = Map.groupBy(ofB, (row) => row.question);
  return ofA
    .filter((a) => known.has(a.question))
    .map((a) => {
      const distance = (row) => Math.abs(row.episodes - a.episodes);
      return [a, known.get(a.question).reduce((best, row) => (distance(row) < distance(best) ? row : best))];
    });
}

function rolloutItem([a, b]) {
  const parts = unique([a, b].filter(Boolean).flatMap((row) => Object.keys(row.numbers)));
  const columns = [
    { title: "Part", cell: (part) => part },
    { title: "A", cell: (part) => short(a.numbers[part]), number: true },
  ];
  if (b) columns.push({ title: "B", cell: (part) => short(b.numbers[part]), number: true });
  return element(
    "article",
    { class: "item" },
    element("p", { class: "text" }, a.question),
    a.label && element("p", { class: "faint" }, `Label: ${a.label}`),
    element("div", { class: "sides" }, rolloutSide("A", a), b && rolloutSide("B", b)),
    sortedTable({ caption: "What the reward is made of", columns, rows: parts, kind: "narrow" }),
  );
}

function rolloutSide(title, row) {
  return element(
    "section",
    { class: "side" },
    element(
      "h3",
      {},
      `${title}, after ${count(row.episodes)} episodes`,
      row.answer === undefined ? "" : `, answer ${row.answer ?? "none"}`,
    ),
    element("p", { class: "text" }, row.response),
  );
}
