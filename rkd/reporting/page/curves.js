// Curves of the chosen jobs over each other, and numbers of the chosen jobs side by side.

// Okabe and Ito's palette for colour-blind readers; dashes tell the lines of one colour apart.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const drawn = { curve: "rl/reward", numbers: "labels" };

// Plotly's other buttons include one that uploads a chart.
const CONFIG = {
  displaylogo: false,
  responsive: true,
  plotlyServerURL: "",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};

/** Plotly reads a small part of HTML in names: an escaped name is shown as it is. */
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

async function drawPlot(place, traces, xTitle, yTitle) {
  const { color, backgroundColor } = getComputedStyle(document.body);
  const axis = { gridcolor: "#88888855", zeroline: false, automargin: true };
  const layout = {
    paper_bgcolor: backgroundColor,
    plot_bgcolor: backgroundColor,
    font: { color, size: 13 },
    margin: { l: 55, r: 10, t: 10, b: 40 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    barmode: "group",
    showlegend: true,
    xaxis: { ...axis, title: { text: escaped(xTitle), font: { size: 13 } } },
    yaxis: { ...axis, title: { text: escaped(yTitle), font: { size: 13 } } },
  };
  const styled = traces.map((trace, number) => {
    const colour = COLOURS[number % COLOURS.length];
    const dash = DASHES[Math.floor(number / COLOURS.length) % DASHES.length];
    return { ...trace, name: escaped(trace.name), line: { color: colour, dash }, marker: { color: colour } };
  });
  await (await plotly()).newPlot(place, styled, layout, CONFIG);
}

/** Why there is nothing to draw. */
function nothing(lacking) {
  return [element("p", {}, chosen.size ? lacking : "No job is chosen. Choose some in the view Jobs.")];
}

async function curvesView() {
  const picked = chosenJobs().filter((job) => job.curves);
  if (!picked.length) return nothing("The chosen jobs have no curves.");
  const curves = await Promise.all(picked.map((job) => block(job.curves)));
  const names = unique(curves.flatMap(({ metrics }) => Object.keys(metrics))).sort();
  if (!names.includes(drawn.curve)) drawn.curve = names[0];
  const place = element("div", { class: "plot", role: "figure" }),
    values = element("div", { class: "scroll" });
  const draw = async () => {
    const name = drawn.curve;
    const traces = picked.flatMap((job, number) => {
      const points = curves[number].metrics[name];
      return points
        ? [{ name: job.title, x: points[0], y: points[1], mode: points[0].length > 60 ? "lines" : "lines+markers" }]
        : [];
    });
    const axis = curves.map(({ axes }) => axes[name.split("/")[0]]).find(Boolean);
    place.setAttribute("aria-label", `${name} of ${traces.length} jobs; the values stand in the table below`);
    values.replaceChildren(
      sortedTable({
        caption: name,
        rows: traces,
        columns: [
          { title: "Job", value: (one) => one.name },
          { title: "First", value: (one) => one.y[0], cell: (one) => short(one.y[0]), number: true },
          { title: "Last", value: (one) => one.y.at(-1), cell: (one) => short(one.y.at(-1)), number: true },
          {
            title: "Lowest",
            value: (one) => Math.min(...one.y),
            cell: (one) => short(Math.min(...one.y)),
            number: true,
          },
          {
            title: "Highest",
            value: (one) => Math.max(...one.y),
            cell: (one) => short(Math.max(...one.y)),
            number: true,
          },
          { title: `Until (${axis})`, value: (one) => one.x.at(-1), cell: (one) => short(one.x.at(-1)), number: true },
        ],
      }),
    );
    await drawPlot(place, traces, axis, name);
  };
  const select = selectField("Curve", names, drawn.curve, (name) => {
    drawn.curve = name;
    draw();
  });
  return [element("div", { class: "controls" }, select), place, values, draw];
}

async function numbersView() {
  const picked = chosenJobs();
  const details = await Promise.all(picked.map((job) => block(job.detail)));
  const keys = unique(details.flatMap(({ numbers }) => Object.keys(numbers)));
  const groups = unique(keys.map((key) => key.split(".")[0]));
  if (!groups.length) return nothing("The chosen jobs have no numbers.");
  if (!groups.includes(drawn.numbers)) drawn.numbers = groups[0];
  const place = element("div", { class: "scroll" }),
    plot = element("div");
  const draw = async () => {
    place.replaceChildren(
      sortedTable({
        caption: `${drawn.numbers} of the chosen jobs`,
        rows: keys.filter((key) => key.split(".")[0] === drawn.numbers),
        columns: [
          { title: "Number", value: (key) => key, cell: (key) => key.slice(drawn.numbers.length + 1) },
          ...picked.map((job, number) => ({
            title: job.title,
            number: true,
            cell: (key) => short(details[number].numbers[key]),
          })),
        ],
      }),
    );
    plot.replaceChildren();
    const traces = picked.flatMap((job, number) => {
      const queries = details[number].consensus;
      return queries
        ? [{ type: "bar", name: job.title, x: queries.map((_, bin) => `${bin / 10}–${(bin + 1) / 10}`), y: queries }]
        : [];
    });
    if (drawn.numbers !== "labels" || !traces.length) return;
    const figure = element("div", {
      class: "plot",
      role: "figure",
      "aria-label": "How many queries have a consensus in each tenth",
    });
    plot.append(element("h3", {}, "Consensus of the teacher's answers"), figure);
    await drawPlot(figure, traces, "share of votes for the label", "queries");
  };
  const select = selectField("Numbers", groups, drawn.numbers, (name) => {
    drawn.numbers = name;
    draw();
  });
  return [element("div", { class: "controls" }, select), place, plot, draw];
}
