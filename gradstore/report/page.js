"use strict";
// Draws the figures that lie as JSON in the page, in the theme the reader prefers, and links the brush to the table.
(() => {
  const { figures, themes, table } = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const MOST_ROWS = 100;
  const body = document.querySelector("#questions tbody");
  const status = document.querySelector(".status");
  const number = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(4))));

  function cell(row, text, kind) {
    const td = row.insertCell();
    td.textContent = text ?? "–";
    if (kind) td.className = kind;
  }

  function list(points, brush) {
    const fields = Object.keys(brush ?? {});
    const within = (p) => fields.every((f) => p[f] >= Math.min(...brush[f]) && p[f] <= Math.max(...brush[f]));
    const found = points.filter(within).sort((a, b) =>
      (b.weight ?? -1) - (a.weight ?? -1) || (b.i_ref - b.i_over) - (a.i_ref - a.i_over) || (a.sample_id < b.sample_id ? -1 : 1));
    const shown = found.slice(0, MOST_ROWS);
    body.replaceChildren();
    for (const p of shown) {
      const row = body.insertRow();
      row.dataset.sampleId = p.sample_id;
      cell(row, p.question);
      cell(row, p.answer);
      cell(row, p.mark === "refuses" ? "a refusal" : p.mark === "keeps its answer" ? "its answer" : "–");
      for (const f of ["correctness", "i_ref", "i_over", "weight"]) cell(row, number(p[f]), "n");
    }
    const where = fields.length ? "in the rectangle" : "in the picture";
    const cut = shown.length < found.length ? `, the ${shown.length} of largest weight and I_ref − I_over listed` : "";
    const hint = fields.length ? "" : " Drag a rectangle over the picture to choose others.";
    status.textContent = `${found.length.toLocaleString("en")} question${found.length === 1 ? "" : "s"} ${where}${cut}.${hint}`;
  }

  async function draw(box) {
    const key = box.dataset.figure;
    const options = {
      mode: "vega-lite", ast: true, actions: false, renderer: "canvas", defaultStyle: false,
      config: dark.matches ? themes.dark : themes.light, tooltip: { disableDefaultStyle: true },
    };
    const { view } = await vegaEmbed(box, structuredClone(figures[key]), options);
    views[key] = view;
    if (key === table && body) {
      const { points } = figures[key].datasets;
      view.addSignalListener("brush", (_, value) => list(points, value));
      list(points, null);
    }
  }

  const views = (window.gradstoreViews = {});
  async function drawAll() {
    for (const view of Object.values(views)) view.finalize();
    for (const box of document.querySelectorAll(".chart")) await draw(box);
    document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
  }
  dark.addEventListener("change", drawAll);
  drawAll();
})();
