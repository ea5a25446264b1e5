// The script of the page. Its files are joined in the order of `page.rs`. Values are inserted with `textContent` only, so that
// the name of a task cannot inject markup.
"use strict";

const find = (id) => document.getElementById(id);

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

// Sets a text only if it differs, so that a selection or a screen reader is not disturbed.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  if (value < 0.001) return Math.round(value * 1e6) + " µs";
  if (value < 1) return Math.round(value * 1000) + " ms";
  if (value < 60) return value.toFixed(1) + " s";
  return wholeSeconds(value);
}

// An age that is shown once a second.
function wholeSeconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 60) return Math.floor(value) + " s";
  if (value < 3600) return Math.floor(value / 60) + " min " + Math.floor(value % 60) + " s";
  if (value < 86400) return Math.floor(value / 3600) + " h " + Math.floor((value % 3600) / 60) + " min";
  return Math.floor(value / 86400) + " d " + Math.floor((value % 86400) / 3600) + " h";
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) {
    if (value >= size) return (value / size).toFixed(1) + " " + unit;
  }
  return value + " B";
}

// A share of one processor. 1.5 processors are 150 %.
function share(value) {
  if (value === null || value === undefined) return "–";
  return (100 * value).toFixed(value < 0.0995 ? 1 : 0) + " %";
}

const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
const group = (path) => (path === "" ? "/" : path);
const ago = (event) => (event === null ? "" : event.what + ", " + wholeSeconds(event.seconds_ago) + " ago");
