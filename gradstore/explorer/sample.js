// The pane of one sample, and what a search finds.

import { $, el, get, go, number, sampleButton } from "./parts.js";

let turn = 0;

const close = () => go({ sample: null, find: null });

function pane(title, ...children) {
  const button = el("button", { type: "button", class: "close", "aria-label": "Close", onclick: close }, "✕");
  $("sample").replaceChildren(el("h2", {}, title), button, ...children);
  toggle(true);
}

// The charts take the width that the pane leaves; Vega listens to the window alone.
function toggle(open) {
  if ($("sample").hidden !== open) return;
  $("sample").hidden = !open;
  dispatchEvent(new Event("resize"));
}

export async function showSample(sampleId, selection) {
  const mine = ++turn;
  if (!sampleId) return toggle(false);
  try {
    const found = await get(`/api/sample/${encodeURIComponent(sampleId)}`);
    if (mine !== turn) return;
    const neighbours = el("div", { id: "neighbours" }, el("p", { class: "quiet", role: "status" }, "Looking for its neighbours …"));
    pane("Sample", ...described(found.sample), ...probed(found), ...chosen(found.selections, selection), neighbours);
    $("sample").scrollTop = 0;
    await showNeighbours(neighbours, sampleId, selection);
  } catch (error) {
    if (mine === turn) pane("Sample", el("p", { class: "error" }, error.message));
  }
}

function described(sample) {
  const facts = [sample.role, sample.subject, sample.source, sample.exposure && `${sample.exposure} seen`];
  const letter = (at) => String.fromCharCode(65 + at);
  const choices = (sample.choices ?? []).map((choice, at) =>
    el("li", {}, `${letter(at)}. ${choice}`, sample.answer === letter(at) ? el("b", {}, " ← the answer") : null));
  return [
    el("p", { class: "question" }, sample.question),
    choices.length ? el("ul", { class: "choices" }, choices) : el("p", {}, "Answer: ", el("b", {}, sample.answer)),
    el("p", { class: "quiet" }, facts.filter(Boolean).join(" · "), el("br"), el("code", {}, sample.sample_id)),
  ];
}

function probed({ sample, probes }) {
  if (!probes.length) return [el("p", { class: "quiet" }, "It was not probed.")];
  return probes.map((probe) => {
    const numbers = `correctness ${number(probe.correctness)}, certainty ${number(probe.certainty)}`;
    const status = probe.status === "ok" ? "" : ` (${probe.status})`;
    const name = probe.checkpoint ? `After ${probe.checkpoint}` : "Initial model";
    return el("section", {}, el("h3", {}, name), el("p", {}, numbers + status), answers(sample, probe));
  });
}

function answers(sample, probe) {
  if (probe.generations?.length) {
    const counted = new Map();
    probe.generations.forEach((text, at) => {
      const key = JSON.stringify([text, probe.verdicts?.[at] ?? ""]);
      counted.set(key, (counted.get(key) ?? 0) + 1);
    });
    const sorted = [...counted].sort((one, other) => other[1] - one[1]);
    const signs = { correct: "✓", wrong: "✗", refused: "○" };
    return el("ul", { class: "answers" }, sorted.map(([key, count]) => {
      const [text, verdict] = JSON.parse(key);
      return el("li", { class: verdict }, `${signs[verdict] ?? ""} ${text || "(nothing)"} `,
        el("span", { class: "quiet" }, `${verdict}${count > 1 ? `, ${count} times` : ""}`));
    }));
  }
  const options = (probe.choice_probs ?? []).map((p, at) => `${String.fromCharCode(65 + at)} ${number(p)}`);
  return options.length ? el("p", {}, options.join(" · ")) : null;
}

function chosen(rows, selection) {
  const shown = rows.filter((row) => !selection || row.selection === selection);
  return shown.map((row) => {
    const scores = [["rank", row.rank], ["weight", row.weight], ["I_ref", row.i_ref], ["I_over", row.i_over]];
    const told = scores.filter(([, value]) => value !== null).map(([name, value]) => `${name} ${number(value)}`);
    const says = row.target_text ? `to say “${row.target_text}”` : "";
    return el("section", {}, el("h3", {}, `Selection ${row.selection}`),
      el("p", {}, [row.knowledge, row.reason, says, ...told].filter(Boolean).join(", ")));
  });
}

async function showNeighbours(box, sampleId, selection) {
  try {
    const found = await get(`/api/explain/${encodeURIComponent(sampleId)}`, { selection });
    const net = found.net === null ? "" : `A push is cosine × weight. All together: ${number(found.net)} for each unit of weight; above 0 is towards refusing.`;
    box.replaceChildren(
      el("p", { class: "quiet" }, net),
      ...list("Pushes it towards refusing", found.towards),
      ...list("Pushes it against refusing", found.against),
      ...why(found.selection));
  } catch (error) {
    box.replaceChildren(el("h3", {}, "Neighbours"), el("p", { class: "quiet" }, error.message));
  }
}

function list(title, rows) {
  const items = (rows ?? []).map((row) => el("tr", {},
    el("td", { class: "number", title: `cosine ${number(row.similarity)}, weight ${number(row.weight)}` }, number(row.push ?? row.similarity)),
    el("td", {}, sampleButton(row.sample_id, row.question ?? row.sample_id), " ",
      el("span", { class: "quiet" }, [row.knowledge, row.response].filter(Boolean).join(", ")))));
  return [el("h3", {}, title), items.length ? el("table", { class: "near" }, el("tbody", {}, items)) : el("p", { class: "quiet" }, "Nothing does.")];
}

// Who would stand here instead, or stands here instead; the row itself is told above.
function why(selection) {
  const other = selection?.displaces ?? selection?.displaced_by;
  if (!other) return [];
  const rank = other.rank === null ? "" : `, rank ${other.rank}`;
  return [el("h3", {}, selection.displaces ? "The first it keeps out" : "The last that was taken"),
    el("p", {}, sampleButton(other.sample_id, other.question), el("span", { class: "quiet" }, ` score ${number(other.score)}${rank}`))];
}

export async function showFound(text) {
  const mine = ++turn;
  try {
    const found = await get("/api/search", { text });
    if (mine !== turn) return;
    const items = found.samples.map((row) =>
      el("li", {}, sampleButton(row.sample_id, row.question), " ", el("span", { class: "quiet" }, [row.role, row.subject].filter(Boolean).join(", "))));
    const count = found.more ? `The first ${found.samples.length} that were found` : `${found.samples.length} found`;
    pane(`“${text}”`, el("p", { role: "status" }, count), el("ul", { class: "found" }, items));
  } catch (error) {
    if (mine === turn) pane("Search", el("p", { class: "error" }, error.message));
  }
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = new FormData(event.target).get("text").trim();
  if (text) go({ find: text, sample: null });
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("sample").hidden) close();
});
