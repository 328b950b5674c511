// The report's charts, in the theme of the page; a click on a point opens its sample.

import { $, el, get, openSample } from "./parts.js";

const REACH = 14; // pixels
const dark = matchMedia("(prefers-color-scheme: dark)");
let drawn = null; // what is on the page: the answer of the server
let turn = 0; // only the latest call may draw

const vegaReady = new Promise((resolve, reject) => {
  if (window.vegaEmbed) resolve();
  $("vega").addEventListener("load", resolve);
  $("vega").addEventListener("error", () => reject(new Error("the charts' script did not arrive: reload the page")));
});
vegaReady.catch(() => {}); // whoever draws hears of it

export async function showCharts(selection) {
  const mine = ++turn;
  const box = $("charts");
  delete box.dataset.drawn;
  box.replaceChildren(el("p", { class: "quiet", role: "status" }, "Reading the store for its charts …"));
  try {
    const found = await get("/api/figures", { selection });
    await vegaReady;
    if (mine !== turn) return;
    drawn = found;
    await draw(mine);
  } catch (error) {
    if (mine === turn) box.replaceChildren(el("p", { class: "error" }, error.message));
  }
}

async function draw(mine) {
  const box = $("charts");
  const config = dark.matches ? drawn.dark : drawn.light;
  const figures = Object.entries(drawn.figures);
  if (!figures.length) {
    box.replaceChildren(el("p", {}, "There is nothing to draw yet: `gradstore probe` measures what a model knows."));
    return;
  }
  box.replaceChildren(el("p", { class: "quiet" }, "A click on a point opens its sample."));
  for (const [name, spec] of figures) {
    const { title = name, caption = "" } = spec.usermeta ?? {};
    const canvas = el("div", { class: "canvas" });
    box.append(el("figure", { id: `figure-${name}` }, el("h2", {}, title), canvas, el("figcaption", {}, caption)));
    await embed(canvas, spec, config);
    if (mine !== turn) return;
  }
  box.dataset.drawn = "all";
}

async function embed(canvas, spec, config) {
  // ast: the expressions of a chart are interpreted, so the page needs no eval
  const options = { ast: true, actions: false, renderer: "canvas", defaultStyle: false, config, tooltip };
  try {
    const { view } = await window.vegaEmbed(canvas, spec, options);
    view.addEventListener("click", (event, item) => {
      const sample = item?.datum?.sample_id ?? nearest(view, canvas, event);
      if (sample) openSample(sample);
    });
    canvas.vegaView = view;
  } catch (error) {
    canvas.replaceChildren(el("p", { class: "error" }, `this chart cannot be drawn: ${error.message}`));
  }
}

// The sample whose point is nearest to a click, within the reach of a finger.
function nearest(view, canvas, event) {
  const { left, top } = canvas.querySelector("canvas").getBoundingClientRect();
  const [padding, origin] = [view.padding(), view.origin()];
  const x = event.clientX - left - padding.left - origin[0];
  const y = event.clientY - top - padding.top - origin[1];
  let [found, closest] = [null, REACH];
  const walk = (mark, fromX, fromY) => {
    for (const item of mark.items) {
      const [dx, dy] = [(item.x ?? 0) + fromX, (item.y ?? 0) + fromY];
      if (mark.marktype === "group") item.items.forEach((inner) => walk(inner, dx, dy));
      else if (mark.marktype === "symbol" && item.datum?.sample_id && Math.hypot(dx - x, dy - y) < closest) {
        [found, closest] = [item.datum.sample_id, Math.hypot(dx - x, dy - y)];
      }
    }
  };
  walk(view.scenegraph().root, 0, 0);
  return found;
}

// Vega's own tooltip writes markup; this one writes text.
function tooltip(handler, event, item, value) {
  const tip = $("tip");
  tip.hidden = value === null || value === undefined || value === "";
  if (tip.hidden) return;
  const lines = typeof value === "object" ? Object.entries(value) : [["", value]];
  tip.replaceChildren(...lines.map(([name, text]) => el("div", {}, name ? el("b", {}, `${name} `) : "", text)));
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 16;
  const top = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

dark.addEventListener("change", () => drawn && draw(++turn));
