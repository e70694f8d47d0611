// A viewer of RFB 3.8 over a WebSocket (RFC 6143): raw rectangles, the keyboard and the pointer.
"use strict";

const canvas = document.getElementById("screen");
const state = document.getElementById("state");
const paint = canvas.getContext("2d");
const path = new URLSearchParams(location.search).get("path") || "";
const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/${path}`, "binary");
socket.binaryType = "arraybuffer";

let buffered = new Uint8Array(0);
let step = version;

socket.onmessage = (event) => {
  const more = new Uint8Array(event.data);
  const joined = new Uint8Array(buffered.length + more.length);
  joined.set(buffered);
  joined.set(more, buffered.length);
  buffered = joined;
  while (step()) { /* each step takes what it can */ }
};
socket.onclose = () => { state.textContent = "The connection has ended. Ask for the console's address again."; };

const view = () => new DataView(buffered.buffer, buffered.byteOffset, buffered.byteLength);
const drop = (count) => { buffered = buffered.slice(count); return true; };
const send = (bytes) => { if (socket.readyState === WebSocket.OPEN) socket.send(new Uint8Array(bytes)); };
const two = (value) => [(value >> 8) & 255, value & 255];
const four = (value) => [...two(value >>> 16), ...two(value)];

function version() {
  if (buffered.length < 12) return false;
  send([...buffered.slice(0, 12)]);
  step = security;
  return drop(12);
}

function security() {
  if (!buffered.length || buffered.length < 1 + buffered[0]) return false;
  const count = 1 + buffered[0];
  send([1]);
  step = result;
  return drop(count);
}

function result() {
  if (buffered.length < 4) return false;
  send([1]);
  step = described;
  return drop(4);
}

function described() {
  if (buffered.length < 24) return false;
  const named = view().getUint32(20);
  if (buffered.length < 24 + named) return false;
  canvas.width = view().getUint16(0);
  canvas.height = view().getUint16(2);
  const name = new TextDecoder().decode(buffered.slice(24, 24 + named));
  document.title = state.textContent = name;
  // 32 bits of true colour, red first, as the canvas has it; raw rectangles
  send([0, 0, 0, 0, 32, 24, 0, 1, ...two(255), ...two(255), ...two(255), 0, 8, 16, 0, 0, 0]);
  send([2, 0, ...two(1), ...four(0)]);
  ask(0);
  step = message;
  return drop(24 + named);
}

const ask = (incremental) => send([3, incremental, 0, 0, 0, 0, ...two(canvas.width), ...two(canvas.height)]);

function message() {
  if (!buffered.length) return false;
  if (buffered[0] === 2) return drop(1);  // bell
  if (buffered[0] === 3) {  // the server's clipboard
    if (buffered.length < 8) return false;
    const length = 8 + view().getUint32(4);
    return buffered.length >= length && drop(length);
  }
  if (buffered[0] !== 0) { socket.close(); return false; }
  return rectangles();
}

function rectangles() {
  if (buffered.length < 4) return false;
  let at = 4;
  const found = [];
  for (let left = view().getUint16(2); left > 0; left -= 1) {
    if (buffered.length < at + 12) return false;
    const [x, y, width, height] = [0, 2, 4, 6].map((offset) => view().getUint16(at + offset));
    const size = width * height * 4;
    if (buffered.length < at + 12 + size) return false;
    found.push([x, y, width, height, buffered.slice(at + 12, at + 12 + size)]);
    at += 12 + size;
  }
  for (const [x, y, width, height, pixels] of found) {
    if (!width || !height) continue;
    for (let alpha = 3; alpha < pixels.length; alpha += 4) pixels[alpha] = 255;
    paint.putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), x, y);
  }
  ask(1);
  return drop(at);
}

const KEYS = { Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Escape: 0xff1b, Delete: 0xffff, Home: 0xff50, ArrowLeft: 0xff51,
  ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54, PageUp: 0xff55, PageDown: 0xff56, End: 0xff57, Shift: 0xffe1,
  Control: 0xffe3, Alt: 0xffe9 };

function key(event, down) {
  const point = event.key.length === 1 ? event.key.codePointAt(0) : 0;
  const symbol = KEYS[event.key] || (point > 255 ? 0x1000000 + point : point) || (/^F\d+$/.test(event.key) ? 0xffbd + Number(event.key.slice(1)) : 0);
  if (!symbol || step !== message) return;
  send([4, down, 0, 0, ...four(symbol)]);
  event.preventDefault();
}
canvas.addEventListener("keydown", (event) => key(event, 1));
canvas.addEventListener("keyup", (event) => key(event, 0));

function pointer(event) {
  if (step !== message) return;
  const scale = canvas.width / canvas.getBoundingClientRect().width;
  const buttons = (event.buttons & 1) | ((event.buttons & 4) >> 1) | ((event.buttons & 2) << 1);
  send([5, buttons, ...two(Math.max(0, Math.round(event.offsetX * scale))), ...two(Math.max(0, Math.round(event.offsetY * scale)))]);
}
for (const name of ["pointermove", "pointerdown", "pointerup"]) canvas.addEventListener(name, pointer);
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
