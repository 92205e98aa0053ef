// The table of classes: sorted by any column, filtered by name, a page at a time.
{
  const table = JSON.parse(document.getElementById("class-data").textContent);
  const part = (id) => document.getElementById("class-" + id);
  const EACH = 50, body = document.querySelector("#classes tbody"), head = document.querySelector("#classes thead");
  const titles = ["class", "images", ...table.columns, "most confused with", "times"];
  const WORDS = [0, titles.length - 2];
  let start = 0, by = null, falls = false;

  function value(row, column) {
    const entry = row[column];
    return WORDS.includes(column) ? (entry === null ? "" : table.names[entry]) : entry;
  }
  function compare(a, b) {
    const [x, y] = [value(a, by), value(b, by)];
    if (x === y) return 0;
    if (x === null) return 1;
    if (y === null) return -1;
    return (x < y ? -1 : 1) * (falls ? -1 : 1);
  }
  function cell(text, column) {
    const node = document.createElement("td");
    node.textContent = text;
    node.className = WORDS.includes(column) ? "text" : "";
    if (column === 0) node.classList.add("stays");
    else node.dataset.name = titles[column];
    return node;
  }
  function show() {
    const query = part("query").value.trim().toLowerCase(), method = part("memory").selectedOptions[0].dataset.method;
    let rows = table.rows[part("memory").value].filter((row) => value(row, 0).toLowerCase().includes(query));
    if (by !== null) rows.sort(compare); // else they are as sorted in Python, worst first
    const end = Math.min(start + EACH, rows.length);
    body.replaceChildren(...rows.slice(start, end).map((row) => {
      const line = document.createElement("tr");
      line.append(...titles.map((_, column) => {
        const entry = value(row, column);
        const isShare = column > 1 && column < titles.length - 2;
        return cell(entry === null ? "" : isShare ? entry.toFixed(1) : entry === 0 && column === titles.length - 1 ? "" : entry, column);
      }));
      return line;
    }));
    part("count").textContent = rows.length ? `${start + 1} to ${end} of ${rows.length}` : "none";
    part("previous").disabled = start === 0;
    part("next").disabled = end >= rows.length;
    head.querySelectorAll("th").forEach((title, column) => {
      const isSorted = by === column || (by === null && titles[column] === method);
      title.setAttribute("aria-sort", isSorted ? (by !== null && falls ? "descending" : "ascending") : "none");
    });
  }
  const row = document.createElement("tr");
  titles.forEach((title, column) => {
    const node = document.createElement("th"), button = document.createElement("button");
    node.className = WORDS.includes(column) ? "text" : "";
    if (column === 0) node.classList.add("stays");
    button.type = "button"; button.textContent = title;
    button.addEventListener("click", () => {
      falls = by === column ? !falls : column === 1 || column === titles.length - 1;
      by = column; start = 0;
      show();
    });
    node.append(button);
    row.append(node);
  });
  head.append(row);
  for (const [id, event] of [["memory", "change"], ["query", "input"]]) {
    part(id).addEventListener(event, () => { start = 0; show(); });
  }
  part("previous").addEventListener("click", () => { start -= EACH; show(); });
  part("next").addEventListener("click", () => { start += EACH; show(); });
  show();
}
