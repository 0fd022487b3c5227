// Responses of two models side by side: to test questions, and in rollouts with each part of their reward.

const NO_SIDES = { a: null, b: null }; // the chosen jobs take both sides
const compared = { test: null, filter: "all", text: "", ...NO_SIDES };
const rolled = { order: "first", text: "", ...NO_SIDES };
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

/** A field that selects a side: one of `all`, which have a title. */
function sideField(label, all, side, change, none = []) {
  const options = [...none, ...all.map(({ title }, place) => [place, title])];
  const place = all.findIndex((one) => one.job === side?.job && one.role === side?.role);
  return selectField(label, options, place, (value) => change(all[value] ?? null));
}

const NONE = [[-1, "none"]];

async function questionsView() {
  const all = finished().flatMap((job) =>
    job.models.map(({ role }) => ({
      job,
      role,
      title: role === own(job).role ? job.title : `${role} (${job.title})`,
    })),
  );
  if (!all.length) return [element("p", {}, "No job has finished.")];
  if (!compared.a) {
    const [a = finished()[0], b] = chosenJobs().filter((job) => job.models.length);
    compared.a = { job: a, role: own(a).role };
    compared.b = b ? { job: b, role: own(b).role } : null;
  }
  const place = element("div"),
    tests = element("div");
  const drawRows = redrawing(place, comparedQuestions);
  const draw = () => {
    const names = Object.keys(testsOf(compared.a));
    if (!names.includes(compared.test)) compared.test = names[0];
    const change = (name) => {
      compared.test = name;
      drawRows();
    };
    tests.replaceChildren(selectField("Test set", names, compared.test, change));
    drawRows();
  };
  const change = (key) => (side) => {
    compared[key] = side;
    draw();
  };
  draw();
  const fields = element("div", { class: "controls" });
  fields.append(sideField("Model A", all, compared.a, change("a")));
  fields.append(sideField("Model B", all, compared.b, change("b"), NONE), tests);
  return [fields, place];
}

const testsOf = ({ job, role }) => job.models.find((model) => model.role === role).tests;

/** The questions that both sides answered, and what is missing of them. */
async function comparedQuestions() {
  const { a, b, test } = compared;
  const [ofA, ofB] = [testsOf(a)[test], b && testsOf(b)[test]];
  const [asked, answersA] = await Promise.all([block(ofA.questions), block(ofA.answers)]);
  const [askedB, answersB] = ofB ? await Promise.all([block(ofB.questions), block(ofB.answers)]) : [];
  const places = askedB && new Map(askedB.ids.map((id, number) => [id, number]));
  const all = asked.ids.map((id, number) => ({
    id,
    question: asked.questions?.[number],
    gold: asked.gold_answers?.[number],
    a: responseOf(answersA, number, ofA.measure),
    b: places?.has(id) ? responseOf(answersB, places.get(id), ofB.measure) : null,
  }));
  const rows = ofB ? all.filter((row) => row.b) : all;
  const lacksTexts = [asked.questions, answersA.responses, ofB ? answersB.responses : true].includes(null);
  return [
    ofA.measure === "win rate" && element("p", {}, "A response that is preferred to the reference counts as right."),
    b && !ofB && element("p", {}, `Model B was not tested on ${test}.`),
    rows.length < all.length && element("p", {}, `Model B answered ${count(rows.length)} of these questions.`),
    lacksTexts && element("p", {}, "Some texts were not kept: by jobs of earlier versions, and in kept tables."),
    ...questionsList(rows, Boolean(ofB)),
  ];
}

function responseOf({ outcomes, answers, responses }, number, measure) {
  return { outcome: outcomes[number], answer: answers?.[number], text: responses?.[number] ?? null, measure };
}

/** Buttons that select questions by who is right, a search, and the list. */
function questionsList(rows, areTwo) {
  const list = element("div"),
    kinds = areTwo ? OUTCOMES : ONE_SIDED;
  if (!kinds.some(([kind]) => kind === compared.filter)) compared.filter = "all";
  const of = (kind) => {
    const accepts = kinds.find(([one]) => one === kind)[2];
    return rows.filter((row) => accepts(row.a.outcome, row.b?.outcome));
  };
  const fill = () => {
    const words = compared.text.toLowerCase();
    const texts = (row) => [row.id, row.question, row.a.text, row.a.answer, row.b?.text];
    const found = (row) => texts(row).some((text) => text?.toLowerCase().includes(words));
    const shown = of(compared.filter);
    list.replaceChildren(pagedList(words ? shown.filter(found) : shown, answeredItem, "questions"));
  };
  const change = (key) => (value) => {
    compared[key] = value;
    fill();
  };
  fill();
  const buttons = kinds.map(([kind, title]) => [kind, `${title} (${count(of(kind).length)})`]);
  return [
    choiceButtons("Which questions", buttons, compared.filter, change("filter")),
    element(
      "div",
      { class: "controls" },
      searchField("Search in questions and responses", compared.text, change("text")),
    ),
    list,
  ];
}

function answeredItem(row) {
  return element(
    "article",
    { class: "item" },
    element("h3", {}, row.id),
    row.question && element("p", { class: "text" }, row.question),
    row.gold &&
      element(
        "p",
        { class: "faint text" },
        `${row.a.measure === "win rate" ? "Reference" : "Gold answer"}: ${row.gold}`,
      ),
    element("div", { class: "sides" }, responseSide("A", row.a), row.b && responseSide("B", row.b)),
  );
}

function responseSide(title, { outcome, answer, text, measure }) {
  return element(
    "section",
    { class: "side" },
    element(
      "h3",
      {},
      `${title}: `,
      mark(outcome, measure),
      answer === undefined || text === answer ? "" : `, answer ${answer ?? "none"}`,
    ),
    text !== null && element("p", { class: "text" }, text),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Rollouts
// ---------------------------------------------------------------------------------------------------------------------

const ORDERS = {
  first: ["order of training", (row) => row.episodes, false],
  highest: ["highest reward", (row) => row.numbers.reward, true],
  lowest: ["lowest reward", (row) => row.numbers.reward, false],
  longest: ["longest response", (row) => row.response.length, true],
};

async function rolloutsView() {
  const all = jobs.filter((job) => job.rollouts).map((job) => ({ job, title: job.title }));
  if (!all.length) return [element("p", {}, "No job has kept rollouts of its reinforcement learning.")];
  if (!rolled.a) [rolled.a = all[0], rolled.b = null] = all.filter(({ job }) => chosen.has(job));
  const place = element("div");
  const draw = redrawing(place, async () => {
    const [ofA, ofB] = await Promise.all([rolled.a, rolled.b].map((side) => side && block(side.job.rollouts)));
    const words = rolled.text.toLowerCase();
    const found = ([a, b]) => [a.question, a.response, b?.response].some((text) => text?.toLowerCase().includes(words));
    const [, value, descending] = ORDERS[rolled.order];
    const pairs = paired([...ofA].sort(by(value, descending)), ofB).filter(found);
    return [
      ofB && element("p", {}, "Questions that both jobs sampled, at the nearest points of training."),
      pagedList(pairs, rolloutItem, "responses"),
    ];
  });
  const change = (key) => (value) => {
    rolled[key] = value;
    draw();
  };
  draw();
  const fields = element("div", { class: "controls" });
  fields.append(sideField("Model A", all, rolled.a, change("a")));
  fields.append(sideField("Model B", all, rolled.b, change("b"), NONE));
  const orders = Object.entries(ORDERS).map(([key, [title]]) => [key, title]);
  fields.append(selectField("Order", orders, rolled.order, change("order")));
  fields.append(searchField("Search in questions and responses", rolled.text, change("text")));
  return [fields, place];
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
    sortedTable({ caption: "Reward, its parts, advantage, length", columns, rows: parts, kind: "narrow" }),
  );
}

function rolloutSide(title, row) {
  return element(
    "section",
    { class: "side" },
    element(
      "h3",
      {},
      `${title}, after ${count(row.episodes)} episodes${row.term ? `, term ${row.term}` : ""}`,
      row.answer === undefined ? "" : `, answer ${row.answer ?? "none"}`,
    ),
    element("p", { class: "text" }, row.response),
  );
}
