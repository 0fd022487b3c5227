// The views, and what is shown of them.

const VIEWS = {
  jobs: ["Jobs", jobsView],
  cells: ["Table", cellsView],
  curves: ["Curves", curvesView],
  numbers: ["Labels and costs", numbersView],
  questions: ["Questions", questionsView],
  rollouts: ["Rollouts", rolloutsView],
};
const main = document.getElementById("main");
const chosen = new Set();
let jobs, tables;
let drawing = 0;

/** Open a view, or the page of a job; the address names it, so that the browser's Back leads to the view before. */
function show(name) {
  if (location.hash === `#${name}`) draw();
  else location.hash = name; // its listener draws
}

async function draw() {
  const number = ++drawing;
  const name = location.hash.slice(1);
  const job = jobs[/^job-(\d+)$/.exec(name)?.[1]];
  const view = Object.hasOwn(VIEWS, name) ? name : "jobs";
  for (const link of document.querySelectorAll("nav a")) {
    if (!job && link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const [title, parts] = job ? [job.title, await jobView(job)] : [VIEWS[view][0], await VIEWS[view][1]()];
  if (number !== drawing) return; // another view was opened meanwhile
  const heading = element("h2", { tabindex: "-1" }, title);
  // A function among the parts is called when these are in the document: Plotly measures the place of a figure.
  const [calls, elements] = [true, false].map((is) =>
    parts.filter((part) => part && (typeof part === "function") === is),
  );
  main.replaceChildren(heading, ...elements);
  if (number > 1) heading.focus();
  for (const call of calls) await call();
}

/** Give each job a title; jobs of one row and seed are told apart by the end of their digests. */
function nameJobs() {
  for (const [title, same] of Map.groupBy(jobs, (job) => `${job.row}, ${job.dataset}, seed ${job.seed}`)) {
    for (const job of same) job.title = same.length > 1 ? `${title} (${job.name.slice(-4)})` : title;
  }
}

async function start() {
  ({ jobs, tables } = await block("overview"));
  nameJobs();
  for (const job of jobs) job.tables = [];
  for (const table of tables) table.jobs.forEach((place) => jobs[place].tables.push(table.name));
  const shown = [...jobs].sort(by((job) => (job.rollouts ? 0 : 1))); // at first, two jobs with all there is to see
  shown.slice(0, 2).forEach((job) => chosen.add(job));
  sayChosen();
  document
    .getElementById("views")
    .append(...Object.entries(VIEWS).map(([name, [title]]) => element("a", { href: `#${name}` }, title)));
  window.addEventListener("hashchange", draw);
  await draw();
  document.documentElement.dataset.opened = Math.round(performance.now()); // milliseconds since the page was asked for
}

start().catch((error) => {
  main.replaceChildren(
    element(
      "p",
      { role: "alert" },
      `The data of this page cannot be read: ${error.message}. It needs a browser of 2024 or later.`,
    ),
  );
});
