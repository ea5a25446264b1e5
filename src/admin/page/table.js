// Tables whose rows and cells stay the same elements from one update to the next, so that the focus, a selection and open
// rows stay too.

const tables = new Map();

// `columns` are objects:
//   title, read(row) => text
//   kind: a class name; "number" is aligned to the right, and so is "count", in which 0 is dimmed
//   mark(row): a further class name
//   draw(cell, row): fills the cell instead of `read`
//   wide: true for a column that a phone does not show
// `options`: key(row) is the identity of a row, `empty` the text without rows, and detail(row) returns the text below a row
// that is shown when its first cell is pressed, or null.
function table(id, columns, rows, options) {
  const known = tables.get(id) || begin(id, columns);
  const { body, lines } = known;
  const left = new Map(lines);
  let before = null;
  rows.forEach((row, at) => {
    const key = options.key(row);
    const line = lines.get(key) || addLine(known, key, columns, options);
    left.delete(key);
    line.row = row;
    columns.forEach((column, place) => fill(line, column, line.line.cells[place], row));
    setClass(line.line, at % 2 ? "even" : "");
    showDetail(line, options);
    before = put(body, line.line, before);
    if (line.below) before = put(body, line.below, before);
  });
  for (const [key, line] of left) {
    line.line.remove();
    if (line.below) line.below.remove();
    lines.delete(key);
  }
  known.empty.hidden = rows.length > 0;
  setText(known.empty.firstChild, options.empty);
}

function begin(id, columns) {
  const head = element("tr");
  for (const column of columns) {
    const cell = element("th", column.title, column.kind === "number" || column.kind === "count" ? "number" : "");
    if (column.wide) cell.classList.add("wide");
    cell.scope = "col";
    head.append(cell);
  }
  const top = element("thead");
  top.append(head);
  const body = element("tbody");
  const last = element("tbody");
  const empty = element("tr");
  const cell = element("td", "", "quiet");
  cell.colSpan = columns.length;
  empty.append(cell);
  last.append(empty);
  find(id).replaceChildren(top, body, last);
  const known = { body, empty, lines: new Map() };
  tables.set(id, known);
  return known;
}

function addLine(known, key, columns, options) {
  const line = element("tr");
  for (const column of columns) line.append(element("td", "", column.wide ? "wide" : ""));
  const made = { line, key, row: null, below: null, isOpen: false };
  if (options.detail) {
    made.button = element("button", "", "expand");
    made.button.type = "button";
    made.button.setAttribute("aria-expanded", "false");
    made.button.addEventListener("click", () => {
      made.isOpen = !made.isOpen;
      showDetail(made, options);
      if (made.below) put(known.body, made.below, line);
    });
    line.cells[0].append(made.button);
  }
  known.lines.set(key, made);
  return made;
}

function fill(line, column, cell, row) {
  const names = [column.kind === "count" ? "number" : column.kind || ""];
  if (column.wide) names.push("wide");
  if (column.kind === "count" && column.read(row) === 0) names.push("zero");
  if (column.mark) names.push(column.mark(row));
  setClass(cell, names.join(" ").trim());
  if (column.draw) return column.draw(cell, row);
  const value = column.read(row);
  const text = column.kind === "count" ? number(value) : value;
  setText(line.button && cell.contains(line.button) ? line.button : cell, text);
}

function showDetail(line, options) {
  if (!options.detail) return;
  const text = options.detail(line.row);
  line.button.disabled = text === null;
  const isShown = line.isOpen && text !== null;
  line.button.setAttribute("aria-expanded", String(isShown));
  if (!isShown) {
    if (line.below) line.below.remove();
    line.below = null;
    return;
  }
  if (!line.below) {
    line.below = element("tr");
    const cell = element("td");
    cell.colSpan = line.line.cells.length;
    const shown = element("pre");
    shown.tabIndex = 0;
    shown.setAttribute("aria-label", "Details of " + line.button.textContent);
    cell.append(shown);
    line.below.append(cell);
  }
  setText(line.below.firstChild.firstChild, text);
}

// Puts a row behind another one, or first. Moves it only if it is elsewhere.
function put(body, line, before) {
  const place = before ? before.nextSibling : body.firstChild;
  if (place !== line) body.insertBefore(line, place);
  return line;
}
