// Small helpers around the DOM. Whatever comes from outside becomes text here, never markup.

import { t } from "./i18n.js";

/**
 * An element: `el("a", { href: "/", class: "button", onclick }, "text", child)`.
 * Properties that begin with `on` are listeners; true sets an attribute without a value; false, null and undefined leave it out.
 */
export function el(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

/** The same for pictures drawn in SVG. */
export function svg(name, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

function filled(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The element of that id; it is there. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no #${id} on this page`);
  return found;
}

/** Say something to whoever listens to the page instead of seeing it. */
export function announce(text) {
  const region = byId("announcements");
  region.textContent = "";
  requestAnimationFrame(() => { region.textContent = text; });
}

/** Show something that has happened, until it is closed, or for some seconds where it is good news. */
export function notify(text, kind = "good", { link } = {}) {
  const close = el("button", { type: "button", class: "quiet small", "aria-label": t("Close"), onclick: () => box.remove() }, "×");
  const more = link ? [" ", el("a", { href: link.href }, link.text)] : [];
  const box = el("div", { class: `notice ${kind} row`, role: kind === "bad" ? "alert" : "status" },
    el("span", { class: "grow" }, text, ...more), close);
  byId("notices").append(box);
  if (kind === "good") setTimeout(() => box.remove(), 6000);
  return box;
}

/** Ask before something that cannot be undone; resolves to whether it is to be done. */
export function confirmed(title, text, { action = t("Go on"), kind = "danger", body = [] } = {}) {
  return new Promise((resolve) => {
    const heading = el("h2", { id: "confirm-title" }, title);
    const dialog = el("dialog", { "aria-labelledby": "confirm-title" },
      el("form", { method: "dialog", class: "stack" }, heading, el("p", {}, text), ...body,
        el("div", { class: "row end" },
          el("button", { value: "no", autofocus: true }, t("Cancel")),
          el("button", { value: "yes", class: kind }, action))));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** `fn` once nobody has called for so many milliseconds. */
export function debounced(fn, wait_ms = 200) {
  let timer;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => fn(...args), wait_ms); };
}
