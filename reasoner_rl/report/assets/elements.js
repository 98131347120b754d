"use strict";
// Elements of the page. Text reaches the document as text nodes alone, so nothing in a response is ever markup.

function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") Object.assign(element.style, value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function table(titles, rows, properties = {}) {
  return el("div", { class: "scrolled" }, el("table", properties,
    el("thead", {}, el("tr", {}, titles.map((title) => el("th", {}, title)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) =>
      typeof cell === "number" ? el("td", { class: "number" }, shortNumber(cell)) : el("td", {}, cell)))))));
}

function shortNumber(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : value.toFixed(size >= 100 ? 1 : 3);
  return text.replace("-", "−");
}

// Three digits, without zeros at the end: for scores.
const briefNumber = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))).replace("-", "−"));

function asText(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "string" ? value : JSON.stringify(value);
}

// Call back after the last of several calls in a row, such as key strokes.
function settled(milliseconds, callback) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...values), milliseconds);
  };
}

function select(label, options, chosen, onchange, id) {
  const list = el("select", { id, onchange: () => onchange(list.value) },
    options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  list.value = chosen;
  return el("label", { class: "field" }, el("span", {}, label), list);
}

const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
