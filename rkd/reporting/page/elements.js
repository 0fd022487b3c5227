// Elements. Texts become text nodes and attributes; no function of this page takes HTML.

/** An element. `attributes` whose names begin with "on" are listeners; null and false leave an attribute out. */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** A labelled field of choices; an option is a value that is its own text, or a pair of a value and a text. */
function selectField(label, options, value, change) {
  const choices = options.map((option) => {
    const [own, text = own] = [option].flat();
    return element("option", { value: own, selected: String(own) === String(value) }, text);
  });
  const select = element("select", { onchange: () => change(select.value) }, choices);
  return element("label", {}, label, select);
}

function searchField(label, value, change) {
  const input = element("input", { type: "search", value, oninput: () => change(input.value) });
  return element("label", {}, label, input);
}

/** Buttons of which one is pressed; `options` are pairs of a value and a text. */
function choiceButtons(label, options, value, change) {
  const buttons = options.map(([one, text]) => {
    const press = () => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === pressed)));
      change(one);
    };
    const pressed = element("button", { type: "button", "aria-pressed": String(one === value), onclick: press }, text);
    return pressed;
  });
  return element("div", { class: "controls", role: "group", "aria-label": label }, buttons);
}

/**
 * A table that sorts by its column heads.
 * `columns`: {title, value(row), cell(row)}; value is what is sorted by, cell what is shown, and each can be left out.
 * The roles are those that the elements have anyway: browsers drop them where a narrow screen shows rows as cards.
 */
function sortedTable({ caption, columns, rows, order = null, kind = "cards" }) {
  const body = element("tbody", { role: "rowgroup" });
  const heads = columns.map((column, place) => {
    const sort = () => {
      order = { place, descending: order?.place === place ? !order.descending : Boolean(column.number) };
      fill();
    };
    const title = column.value ? element("button", { type: "button", onclick: sort }, column.title) : column.title;
    return element("th", { role: "columnheader", scope: "col", class: column.number ? "number" : null }, title);
  });
  const fill = () => {
    const shown = order === null ? rows : [...rows].sort(by(columns[order.place].value, order.descending));
    heads.forEach((head, place) => {
      const direction = order?.place === place ? (order.descending ? "descending" : "ascending") : "none";
      if (columns[place].value) head.setAttribute("aria-sort", direction);
    });
    body.replaceChildren(
      ...shown.map((row) =>
        element(
          "tr",
          { role: "row" },
          columns.map((one) => cell(one, row)),
        ),
      ),
    );
  };
  fill();
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, heads));
  return element("table", { class: kind, role: "table" }, element("caption", {}, caption), head, body);
}

function cell(column, row) {
  const value = column.value?.(row);
  const shown = column.cell ? column.cell(row) : typeof value === "number" ? short(value) : value;
  const attributes = { role: "cell", "data-label": column.title, class: column.number ? "number" : null };
  return element("td", attributes, shown ?? "–");
}

/** A comparison of rows by a value; rows without one come last. */
function by(value, descending) {
  return (first, second) => {
    const [a, b] = [value(first) ?? null, value(second) ?? null];
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return descending ? -order : order;
  };
}

/** A part of a list at a time: `draw(item)` makes an element of each; `what` names the items. */
function pagedList(items, draw, what, size = 20) {
  const place = element("div"),
    status = element("span", { role: "status" });
  const last = Math.max(0, Math.ceil(items.length / size) - 1);
  let page = 0;
  const turn = (wanted) => {
    if (wanted < 0 || wanted > last) return;
    page = wanted;
    const part = items.slice(page * size, (page + 1) * size);
    previous.setAttribute("aria-disabled", page === 0); // not disabled: the focus stays
    next.setAttribute("aria-disabled", page === last);
    const range = `${count(page * size + 1)}–${count(page * size + part.length)} of ${count(items.length)}`;
    status.textContent = items.length ? `${range} ${what}` : `No ${what}`;
    place.replaceChildren(...part.map(draw));
  };
  const previous = element("button", { type: "button", onclick: () => turn(page - 1) }, "Previous");
  const next = element("button", { type: "button", onclick: () => turn(page + 1) }, "Next");
  turn(0);
  return element("div", {}, element("div", { class: "controls" }, previous, next, status), place);
}

/** A function that shows in `place` what `make` makes; a result that a later call has overtaken is not shown. */
function redrawing(place, make) {
  let last = 0;
  return async () => {
    const number = ++last;
    const made = await make();
    if (number === last) place.replaceChildren(...made.filter(Boolean));
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// Numbers as texts
// ---------------------------------------------------------------------------------------------------------------------

const count = (value) => value.toLocaleString("en");
const percent = (fraction) => (100 * fraction).toFixed(1);
const unique = (values) => [...new Set(values)];

/** A number with four significant digits; whole numbers stay whole, and −0 is 0. */
function short(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
  return Number.isInteger(value) ? count(value + 0) : String(Number(value.toPrecision(4)));
}

function withInterval(test) {
  return `${percent(test.accuracy)} [${percent(test.low)}, ${percent(test.high)}]`;
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${seconds.toFixed(1)} s`;
  return minutes < 60
    ? `${minutes} min ${Math.floor(seconds % 60)} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
