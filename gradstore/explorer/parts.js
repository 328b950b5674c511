// What every part of the page needs: elements made of text alone, the state in the address, and the server.

// The page's policy lets no text become markup. Vega empties an element by assigning "" to it; nothing else passes.
window.trustedTypes?.createPolicy("default", { createHTML: (text) => (text === "" ? "" : null) });

export const $ = (id) => document.getElementById(id);

// An element. Children are elements or plain values; a value becomes text, whatever it holds.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : String(c))));
  return node;
}

export const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : Number(Number(value).toPrecision(digits)).toString();

// The token came behind the # of the printed address. It stays in this browser, for this port, until the next run.
function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    localStorage.setItem("token", given);
    go({ token: null }, true);
  }
  return localStorage.getItem("token") || "";
}

export class Refused extends Error {}

// Ask the server; returns the response. Throws Refused with the server's line, or with what to do where it is gone.
export async function fetchFrom(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${token()}` } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("the server does not answer: is `gradstore explore` still running?");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Refused(said.error || `${response.status} ${response.statusText}`);
  }
  return response;
}

export const get = async (path, parameters = {}, options = {}) => {
  const given = Object.entries(parameters).filter(([, value]) => value);
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  return (await fetchFrom(path + query, options)).json();
};

// -- state: everything that a view shows is named behind the #, so a view can be linked

export const state = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

export function linkTo(changes) {
  const next = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    if (value) next.set(name, value);
    else next.delete(name);
  }
  return `#${next}`;
}

export function go(changes, quietly = false) {
  const target = linkTo(changes);
  if (target === location.hash) return;
  if (quietly) history.replaceState(null, "", target);
  else location.hash = target;
}

export const openSample = (sampleId) => go({ sample: sampleId, find: null });

export function sampleButton(sampleId, text = null) {
  const open = () => openSample(sampleId);
  return el("button", { type: "button", class: "link", title: `open sample ${sampleId}`, onclick: open }, text ?? sampleId);
}
