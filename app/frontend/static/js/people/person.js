// One person: what is known of them, their faces, and what can be done with them.

import { ask, get, post } from "../api.js";
import { combobox } from "../combobox.js";
import { announce, byId, confirmed, el, notify } from "../dom.js";
import { ago, moment, number } from "../format.js";
import { t, tn } from "../i18n.js";
import { suggestPersons } from "../persons.js";
import { face, pageOf, personIn, personsOf, quality, validity } from "./common.js";
import { erasing } from "./erasing.js";
import { receipt } from "./receipt.js";

const root = byId("person");
const domain = { id: root.dataset.domainId, name: root.dataset.domain };
const address = personIn(domain, { id: root.dataset.personId });
const form = byId("details");
const wrong = byId("details-wrong");
const list = byId("faces");
const more = byId("more");

const MOMENTS = ["valid_from", "valid_until"];
const AT_ONCE = 24;

let person = null;
let cursor = null;

// What is known of them

function show() {
  byId("name").textContent = person.display_name;
  document.title = `${person.display_name} · Facedex`;
  byId("badges").replaceChildren(
    el("span", { class: "faint" }, tn("{number} face", "{number} faces", person.faces)),
    validity(person) ?? el("span", { class: "badge good" }, t("valid")),
    el("span", { class: "faint" }, t("enrolled {moment}", { moment: moment(person.created_at) })));
  for (const name of ["display_name", "label", "external_id"]) form.elements[name].value = person[name] ?? "";
  for (const name of MOMENTS) form.elements[name].value = local(person[name]);
  form.elements.metadata.value = Object.keys(person.metadata).length ? JSON.stringify(person.metadata, null, 2) : "";
  byId("faces-found").textContent = person.faces === 0 ? t("There are no faces yet: nobody is recognised as this person.") : "";
}

/** A moment as `<input type="datetime-local">` has it: in the reader's zone. */
function local(value) {
  if (!value) return "";
  const at = new Date(value);
  const two = (part) => String(part).padStart(2, "0");
  return `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
    + `T${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Only what was changed: what somebody else has changed meanwhile stays. */
function changes() {
  const changed = {};
  for (const name of ["display_name", "label", "external_id"]) {
    const value = form.elements[name].value.trim();
    if (value !== (person[name] ?? "")) changed[name] = value === "" && name !== "label" ? null : value;
  }
  for (const name of MOMENTS) {
    const { value } = form.elements[name];
    if (value !== local(person[name])) changed[name] = value ? new Date(value).toISOString() : null;
  }
  const metadata = form.elements.metadata.value.trim();
  const parsed = metadata ? JSON.parse(metadata) : {};
  if (JSON.stringify(parsed) !== JSON.stringify(person.metadata)) changed.metadata = parsed;
  return changed;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  wrong.hidden = true;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  let changed;
  try {
    changed = changes();
  } catch {
    return refuse(t("The metadata is not JSON."), ["metadata"]);
  }
  if (Object.keys(changed).length === 0) return announce(t("Nothing was changed."));
  try {
    person = await ask("PATCH", address, { json: changed });
  } catch (problem) {
    return refuse(problem.message, Object.keys(changed));
  }
  show();
  history.replaceState(null, "", pageOf(domain, person));
  notify(t("Saved."));
  return null;
});

function refuse(text, fields) {
  wrong.textContent = text;
  wrong.hidden = false;
  const first = form.elements[fields[0]];
  first.setAttribute("aria-invalid", "true");
  first.focus();
}

// Their faces

async function loadFaces() {
  try {
    const page = await get(`${address}/faces`, { limit: AT_ONCE, cursor });
    const items = page.items.map(faceItem);
    const had = list.children.length > 0;
    list.append(...items);
    if (had) items[0]?.querySelector("button").focus();
    else portrait(page.items.some((one) => one.has_image));
    cursor = page.next_cursor;
    more.hidden = cursor === null;
  } catch (problem) {
    notify(problem.message, "bad");
  }
}

function portrait(has) {
  byId("portrait").replaceChildren(face(address, person.display_name, { has, large: true }));
}

function faceItem(one) {
  const size = Math.min(one.box.w, one.box.h);
  const facts = [
    [t("Size"), size > 0 ? `${number(size)} px` : "–"],
    [t("Sharpness"), one.sharpness > 0 ? number(one.sharpness) : "–"],
    [t("Detection"), number(one.detection_score, 2)],
    [t("Enrolled"), el("time", { datetime: one.created_at, title: moment(one.created_at) }, ago(one.created_at))],
  ];
  const item = el("li", { class: "card" },
    face(`${address}/faces/${one.id}`, person.display_name, { has: one.has_image, large: true, alt: t("Face enrolled {moment}", { moment: moment(one.created_at) }) }),
    el("div", { class: "grow" },
      quality(one.quality, { one: true }),
      el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      el("div", { class: "row" },
        one.has_image ? el("a", { href: `${address}/faces/${one.id}/image`, target: "_blank", rel: "noopener" }, t("Picture")) : null,
        el("button", {
          type: "button", class: "small danger", onclick: () => remove(one, item),
          "aria-label": t("Delete the face enrolled {moment}", { moment: moment(one.created_at) }),
        }, t("Delete")))));
  return item;
}

async function remove(one, item) {
  const text = person.faces === 1
    ? t("It is the only face of {name}: they will not be recognised any more.", { name: person.display_name })
    : t("{name} will be recognised by the other faces.", { name: person.display_name });
  if (!await confirmed(t("Delete this face?"), text, { action: t("Delete") })) return;
  try {
    await ask("DELETE", `${address}/faces/${one.id}`);
    item.remove();
    person = await get(address);
    show();
    byId("faces-heading").scrollIntoView({ block: "nearest" });
    announce(t("The face was deleted."));
  } catch (problem) {
    notify(problem.message, "bad");
  }
}

more.addEventListener("click", loadFaces);

// Merge and erase

const mergeForm = byId("merge");
const into = combobox(byId("into"), async (text) => {
  const suggestions = await suggestPersons(domain.id)(text);
  return suggestions.filter(({ value }) => value !== root.dataset.personId);
}, { onChoose: () => { mergeForm.querySelector("button").disabled = false; } });
byId("into").addEventListener("input", () => { mergeForm.querySelector("button").disabled = true; });

mergeForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { chosen } = into;
  if (!chosen || !person) return;
  const text = t("All that is of {one} becomes {other}’s, and {one} is gone. This cannot be undone.", { one: person.display_name, other: chosen.text });
  if (!await confirmed(t("Merge two persons?"), text, { action: t("Merge") })) return;
  try {
    const merged = await post(`${personsOf(domain)}/${chosen.value}/merge`, { from: person.id });
    location.assign(pageOf(domain, merged.person));
  } catch (problem) {
    notify(problem.message, "bad");
  }
});

byId("erase").addEventListener("click", async () => {
  if (!await erasing(person)) return;
  try {
    const told = await ask("DELETE", address);
    const back = el("p", {}, el("a", { href: `/people?${new URLSearchParams({ domain: domain.name })}` }, t("← Back to everybody")));
    root.classList.add("stack");
    root.replaceChildren(receipt(told), back);
    document.title = document.title.replace(person.display_name, () => t("Erased"));
    byId("receipt").focus();
  } catch (problem) {
    notify(problem.message, "bad");
  }
});

try {
  person = await get(address);
} catch (problem) {
  notify(problem.message, "bad");
}
if (person) {
  show();
  portrait(false);
  for (const button of [byId("erase"), form.querySelector("button")]) button.disabled = false;
  await loadFaces();
}
