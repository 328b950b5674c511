// The page: reads the address, shows what it names, and follows its changes.

import { $, el, get, go, linkTo, state } from "./parts.js";
import { showCookbook, showTables } from "./ask.js";
import { showCharts } from "./charts.js";
import { showFound, showSample } from "./sample.js";

let shown = {}; // the state that is on the page
let first = ""; // the selection where the address names none

async function follow() {
  $("tip").hidden = true; // it belongs to a point that may be gone
  const now = { view: "charts", selection: first, sample: "", find: "", ...state() };
  if (now.token) return get("/api/store").then(start, failed); // another run's address was pasted into this page
  for (const link of document.querySelectorAll("nav a")) {
    link.href = linkTo({ view: link.dataset.view });
    if (link.dataset.view === now.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("charts").hidden = now.view !== "charts";
  $("ask").hidden = now.view !== "ask";
  const before = shown;
  shown = now;
  const other = before.selection !== now.selection;
  if (other) {
    $("selection").value = now.selection;
    showCookbook(now.selection).catch(failed);
  }
  if (now.sql !== undefined && now.sql !== before.sql) $("sql").value = now.sql;
  if (now.view === "charts" && (other || before.drawn === undefined)) showCharts(now.selection);
  shown.drawn = now.view === "charts" ? true : other ? undefined : before.drawn;
  if (now.find) {
    if (now.find !== before.find) showFound(now.find);
  } else if (other || now.sample !== before.sample || before.find) {
    showSample(now.sample, now.selection);
  }
}

function start(found) {
  $("notice").hidden = true;
  $("store").textContent = found.store.split("/").filter(Boolean).pop() ?? found.store;
  $("store").title = found.store;
  first = found.selection ?? "";
  const options = found.selections.map((name) => el("option", { value: name }, name));
  const none = found.selection && found.selections.length ? [] : [el("option", { value: "" }, "none")];
  $("selection").replaceChildren(...none, ...options);
  showTables(found.tables, found.limits);
  if (!$("sql").value) $("sql").value = "SELECT sample_id, question, answer\nFROM samples\nLIMIT 20";
  shown = {};
  follow();
}

function failed(error) {
  $("notice").textContent = error.message;
  $("notice").hidden = false;
}

$("selection").addEventListener("change", (event) => go({ selection: event.target.value }));
addEventListener("hashchange", follow);
get("/api/store").then(start, failed);
