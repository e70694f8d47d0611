// The API's documentation: shows /openapi.json and tries its operations. Nothing but this daemon is ever asked, and all
// text goes into the page as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const byId = (id) => document.getElementById(id);
let api = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function resolve(value) {
  const seen = new Set();
  while (value && value.$ref && !seen.has(value.$ref)) {
    seen.add(value.$ref);
    value = value.$ref.slice(2).split("/").reduce((place, part) => place && place[part.replace(/~1/g, "/").replace(/~0/g, "~")], api);
  }
  return value || {};
}

function typeOf(schema) {
  const type = [].concat(schema.type || []).join(" or ");
  if (schema.anyOf) return schema.anyOf.map((one) => typeOf(resolve(one)) || "anything").join(" or ");
  if (schema.type === "array" && schema.items) return "list of " + (typeOf(resolve(schema.items)) || "anything");
  return type + (schema.format ? " (" + schema.format + ")" : "");
}

function limits(schema) {
  const told = [];
  if (schema.enum) told.push("one of " + schema.enum.map((one) => JSON.stringify(one)).join(", "));
  for (const key of ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"]) {
    if (schema[key] !== undefined) told.push(key + " " + schema[key]);
  }
  if (schema["x-since"] && schema["x-since"] !== "1.1") told.push("since " + schema["x-since"]);
  if (schema.description) told.push(schema.description);
  return told.join("; ");
}

function shape(schema, depth = 0) {
  schema = resolve(schema);
  if (schema.anyOf) {
    const rich = schema.anyOf.map(resolve).filter((one) => one.properties || one.items);
    return rich.length && depth < 8 ? element("div", {}, ...rich.map((one) => shape(one, depth + 1))) : null;
  }
  if (schema.items) return depth < 8 ? shape(schema.items, depth + 1) : null;
  const rows = Object.entries(schema.properties || {});
  if (schema.additionalProperties && typeof schema.additionalProperties === "object") rows.push(["(any name)", schema.additionalProperties]);
  if (!rows.length || depth > 8) return null;
  const required = new Set(schema.required || []);
  return element("ul", { class: "schema" }, ...rows.map(([name, inner]) => {
    const found = resolve(inner);
    const head = [element("code", { class: required.has(name) ? "required" : "" }, name), " ",
      element("span", { class: "muted" }, typeOf(found), limits(found) ? ": " + limits(found) : "")];
    const below = shape(found, depth + 1);
    return below ? element("li", {}, element("details", {}, element("summary", {}, ...head), below)) : element("li", {}, ...head);
  }));
}

function parameters(list) {
  if (!list.length) return null;
  return element("table", {}, element("tbody", {}, ...list.map((one) => element("tr", {},
    element("th", { scope: "row" }, element("code", { class: one.required ? "required" : "" }, one.name)),
    element("td", {}, one.in), element("td", {}, typeOf(one.schema || {})),
    element("td", { class: "muted" }, [limits(one.schema || {}), one.description].filter(Boolean).join("; "))))));
}

function responses(operation) {
  return element("div", {}, ...Object.entries(operation.responses).map(([status, given]) => {
    const found = resolve(given);
    const content = Object.values(found.content || {})[0];
    const head = [element("code", {}, status), " ", found.description];
    const below = content && Number(status) < 300 ? shape(content.schema) : null;
    return below ? element("details", {}, element("summary", {}, ...head), below) : element("div", {}, ...head);
  }));
}

function headersOf() {
  const found = { "X-OpenStack-Ironic-API-Version": byId("version").value || "latest" };
  if (byId("user").value) {
    const bytes = new TextEncoder().encode(byId("user").value + ":" + byId("password").value);
    found.Authorization = "Basic " + btoa(String.fromCharCode(...bytes));
  }
  if (byId("token").value) found["X-Auth-Token"] = byId("token").value;
  return found;
}

async function send(method, path, fields, body, output) {
  let url = path;
  const query = new URLSearchParams();
  for (const [one, input] of fields) {
    if (one.in === "path") url = url.replace("{" + one.name + "}", encodeURIComponent(input.value));
    else if (input.value) query.set(one.name, input.value);
  }
  if ([...query].length) url += "?" + query;
  const options = { method: method.toUpperCase(), headers: headersOf() };
  if (body && body.value.trim()) {
    options.body = body.value;
    options.headers["Content-Type"] = "application/json";
  }
  output.textContent = "…";
  try {
    const answer = await fetch(url, options);
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it came */ }
    const id = answer.headers.get("x-openstack-request-id") || "";
    output.textContent = `${options.method} ${url}\n${answer.status} ${answer.statusText} ${id}\n\n${shown}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function trial(method, path, operation, list) {
  const fields = list.filter((one) => one.in !== "header").map((one) => [one, element("input", { name: one.name })]);
  const body = operation.requestBody ? element("textarea", { spellcheck: "false", "aria-label": "Body" }) : null;
  if (body) body.value = method === "patch" ? '[{"op": "replace", "path": "/extra", "value": {}}]' : "{}";
  const output = element("pre", { "aria-live": "polite" });
  const form = element("form", { onsubmit: (event) => { event.preventDefault(); send(method, path, fields, body, output); } },
    ...fields.map(([one, input]) => element("label", {}, one.name + " ", input)), body, element("button", {}, "Send"));
  return element("details", {}, element("summary", {}, "Try it"), form, output);
}

function inside(method, path, operation) {
  const list = (operation.parameters || []).map(resolve);
  const content = operation.requestBody && Object.values(operation.requestBody.content)[0];
  const policy = operation["x-policy"] ? "Policy " + operation["x-policy"] + ". " : "";
  return element("div", { class: "inside" },
    element("p", { class: "muted" }, policy + "Since " + operation["x-since"] + ". Operation " + operation.operationId + "."),
    parameters(list), content ? element("h3", {}, "Body") : null, content ? shape(content.schema) || typeOf(resolve(content.schema)) : null,
    element("h3", {}, "Answers"), responses(operation), trial(method, path, operation, list));
}

function draw(wanted) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((one) => methods[one])) {
      const operation = methods[method];
      const text = `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase();
      if (!wanted.toLowerCase().split(/\s+/).every((word) => text.includes(word))) continue;
      const group = groups.get(operation.tags[0]) || [];
      groups.set(operation.tags[0], [...group, [method, path, operation]]);
    }
  }
  const sections = [...groups].map(([tag, rows]) => element("section", { id: "tag-" + tag }, element("h2", {}, tag),
    ...rows.map(([method, path, operation]) => {
      const one = element("details", { class: "operation", id: operation.operationId }, element("summary", {},
        element("span", { class: "method " + method }, method.toUpperCase()), element("code", { class: "path" }, path),
        element("span", { class: "muted" }, operation.summary)));
      one.addEventListener("toggle", () => { if (one.open && one.children.length === 1) one.append(inside(method, path, operation)); });
      return one;
    })));
  byId("operations").replaceChildren(...(sections.length ? sections : [element("p", {}, "Nothing fits.")]));
  byId("tags").replaceChildren(...[...groups.keys()].map((tag) => element("a", { href: "#tag-" + tag }, tag)));
}

async function start() {
  try {
    api = await (await fetch("/openapi.json")).json();
  } catch (error) {
    byId("operations").textContent = "The document cannot be loaded: " + error;
    return;
  }
  document.title = api.info.title + " " + api.info.version;
  draw("");
  byId("search").addEventListener("input", (event) => draw(event.target.value));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      byId("search").focus();
    }
  });
  const chosen = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (chosen) { chosen.open = true; chosen.scrollIntoView(); }
}

start();
