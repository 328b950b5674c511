// The SQL box: the cookbook's queries, a run with Ctrl-Enter, and its rows.

import { $, el, fetchFrom, get, go, number, sampleButton } from "./parts.js";

const PAGE = 200; // rows that are drawn at once
let entries = [];

export async function showCookbook(selection) {
  entries = await get("/api/cookbook", { selection });
  const options = entries.map((entry, at) => el("option", { value: at }, entry.title));
  $("cookbook").replaceChildren(el("option", { value: "" }, "choose a question …"), ...options);
  $("asks").textContent = "";
}

export function showTables(tables, limits) {
  const rows = tables.map((table) =>
    el("p", {}, el("b", {}, table.name), table.rows === null ? " (view)" : ` (${table.rows.toLocaleString("en")} rows)`,
      `: ${table.columns.join(", ")}`));
  $("tables").replaceChildren(el("summary", {}, "Tables and their columns"), ...rows);
  $("limits").textContent =
    `at most ${limits.seconds} s, ${limits.megabytes.toLocaleString("en")} MB and ${limits.rows.toLocaleString("en")} rows`;
}

async function post(body) {
  return fetchFrom("/api/query", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ sql: $("sql").value, ...body }),
  });
}

async function run() {
  if ($("run").disabled) return;
  go({ sql: $("sql").value }, true);
  await busily("Running …", async () => {
    const found = await (await post({})).json();
    const rows = found.rows.length.toLocaleString("en");
    const count = found.more ? `the first ${rows} rows; the query has more` : `${rows} row${rows === "1" ? "" : "s"}`;
    $("outcome").textContent = `${count} in ${number(found.seconds)} s`;
    showRows(found);
  });
}

async function download() {
  await busily("Preparing the file …", async () => {
    const address = URL.createObjectURL(await (await post({ format: "csv" })).blob());
    el("a", { href: address, download: "query.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    $("outcome").textContent = "The rows are in query.csv.";
  });
}

async function busily(text, work) {
  const buttons = [$("run"), $("download")];
  buttons.forEach((button) => (button.disabled = true));
  $("outcome").className = "";
  $("outcome").textContent = text;
  try {
    await work();
  } catch (error) {
    $("results").replaceChildren();
    $("outcome").className = "error";
    $("outcome").textContent = error.message;
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

function showRows({ columns, rows }) {
  const body = el("tbody");
  const heads = columns.map((column) => el("th", { scope: "col", class: column.type }, column.name));
  const more = el("button", { type: "button", onclick: () => draw() }, "Show more rows");
  const draw = () => {
    const from = body.rows.length;
    body.append(...rows.slice(from, from + PAGE).map((row) => el("tr", {}, row.map((value, at) => cell(value, columns[at])))));
    more.hidden = body.rows.length >= rows.length;
  };
  draw();
  $("results").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, heads)), body), more);
}

function cell(value, column) {
  if (value === null) return el("td", { class: "quiet" }, "null");
  if (column.name.endsWith("sample_id")) return el("td", {}, sampleButton(value, short(value)));
  if (column.type !== "number") return el("td", { class: value.length > 32 ? "long" : "text" }, value);
  return el("td", { class: "number", title: value }, Number.isInteger(value) ? value : number(value, 5));
}

const short = (id) => (id.length > 12 ? `${id.slice(0, 10)}…` : id);

$("query").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("download").addEventListener("click", download);
$("sql").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  }
});
$("cookbook").addEventListener("change", (event) => {
  const entry = entries[event.target.value];
  $("asks").textContent = entry ? entry.question : "";
  if (entry) $("sql").value = entry.sql;
});
