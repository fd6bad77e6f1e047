// A click on a column header sorts the table: numbers by value ("~$1,234", "12 %", "free"), words alphabetically.
// A table that is wider than its box is marked, so that the page can show a scroll hint.
"use strict";
const tables = document.querySelectorAll(".table");
const mark = () => {
  for (const box of tables) box.classList.toggle("scrolls", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
};
for (const box of tables) box.addEventListener("scroll", mark, { passive: true });
addEventListener("resize", mark);
mark();
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      if (!head.classList.contains("n")) return text;
      const number = parseFloat(text.replace(/[~$,%]/g, ""));
      return text === "free" ? 0 : Number.isNaN(number) ? Infinity : number;
    };
    const rows = [...body.rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows.map(([, row]) => row));
  });
}
