"use strict";
// Sorting and searching for every table; the page can be read without this.

const value = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};

const words = new Intl.Collator("en", { numeric: true });

const isNumber = (found) => typeof found === "number";

// What has no value stands last either way; numbers come before words.
const order = (a, b, sign) => {
  if (a === "" || a === "–") return b === "" || b === "–" ? 0 : 1;
  if (b === "" || b === "–") return -1;
  if (isNumber(a) && isNumber(b)) return sign * (a - b);
  if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
  return sign * words.compare(a, b);
};

const sort = (table, column, heading) => {
  const rising = heading.getAttribute("aria-sort") === "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
  rows.sort((a, b) => order(a[0], b[0], rising ? 1 : -1));
  table.tBodies[0].append(...rows.map(([, row]) => row));
};

const filter = (table, controls) => {
  const wanted = controls.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = controls.querySelector("select")?.value ?? "";
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    row.text ??= row.textContent.toLowerCase();
    const fits = (!kind || row.dataset.kind === kind) && wanted.every((word) => row.text.includes(word));
    row.hidden = !fits;
    shown += fits;
  }
  controls.querySelector("output").textContent = `${shown} of ${table.tBodies[0].rows.length}`;
};

for (const sheet of document.querySelectorAll(".sheet")) {
  const table = sheet.querySelector("table");
  const controls = sheet.querySelector(".controls");
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(table, column, heading));
    heading.replaceChildren(button);
  });
  if (!controls) continue;
  controls.hidden = false;
  controls.addEventListener("input", () => filter(table, controls));
  filter(table, controls);
}

// A link to a row that a search hides clears the search.
const reveal = () => {
  const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!row?.hidden) return;
  const sheet = row.closest(".sheet");
  for (const field of sheet.querySelectorAll("input, select")) field.value = "";
  filter(sheet.querySelector("table"), sheet.querySelector(".controls"));
  row.scrollIntoView({ block: "center" });
};
addEventListener("hashchange", reveal);
reveal();
