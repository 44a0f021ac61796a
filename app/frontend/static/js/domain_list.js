// Domains within reach, new ones, and the status report of one.

import { get, pages, path, post } from "./api.js";
import { announce, byId, el, notify } from "./dom.js";
import { t } from "./i18n.js";
import { badge, bytes, facts, migration, moment, number, percent } from "./report.js";

const PAGE = 100;
const RUNNING_EVERY_MS = 2000;

let cursor = null;
let chosen = null; // { id, name }
let timer = null;

async function listMore() {
  try {
    const page = await get("/v1/domains", { limit: PAGE, cursor });
    cursor = page.next_cursor;
    byId("list").append(...page.items.map(row));
    byId("more").hidden = !cursor;
    byId("none").hidden = byId("list").children.length > 0;
    mark();
  } catch (problem) {
    notify(problem.message, "bad");
  }
}

/** The domain of that name; without an id where none is listed: a dataset may go by it, or nothing does. */
async function named(name) {
  try {
    for await (const items of pages("/v1/domains", { limit: 500 })) {
      const found = items.find((domain) => domain.name === name);
      if (found) return found;
    }
  } catch { /* its report will say what is wrong */ }
  return { id: null, name };
}

function row(domain) {
  const link = el("a", { href: `?${new URLSearchParams({ domain: domain.name })}`, onclick: (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    choose(domain);
  } }, domain.name);
  return el("tr", { dataset: { id: domain.id } },
    el("th", { scope: "row" }, link), el("td", { class: "number" }, number(domain.embeddings)), el("td", {}, domain.model.name));
}

function mark() {
  for (const line of byId("list").children) {
    if (line.dataset.id === chosen?.id) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
}

function choose(domain) {
  const url = new URL(location.href);
  url.searchParams.set("domain", domain.name);
  history.replaceState(null, "", url);
  chosen = domain;
  mark();
  report();
}

/** Show the chosen domain's status, and again as long as a migration runs and somebody looks. */
async function report() {
  clearTimeout(timer);
  const wanted = chosen;
  if (!wanted || document.hidden) return;
  try {
    const found = await get(path("v1", "domains", wanted.id ?? wanted.name));
    if (wanted !== chosen) return;
    show(found);
    if (found.migration?.state === "running") timer = setTimeout(report, RUNNING_EVERY_MS);
  } catch (problem) {
    if (wanted !== chosen) return;
    byId("report-title").textContent = wanted.name;
    byId("report-body").replaceChildren(el("p", { class: "notice bad" }, problem.message));
  }
}

function show(found) {
  byId("report-empty").hidden = true;
  byId("report-title").textContent = found.name;
  const photos = found.reference_photos;
  const index = found.index;
  const licence = found.licence;
  const query = new URLSearchParams({ domain: found.name });
  const section = byId("report");
  const links = [
    "people" in section.dataset && el("a", { class: "button", href: `/people?${query}` }, t("People")),
    "threshold" in section.dataset && el("a", { class: "button", href: `/threshold?${query}` }, t("Threshold")),
  ];
  byId("report-body").replaceChildren(
    facts([
      [t("Persons"), number(found.persons)],
      [t("Templates"), number(found.embeddings)],
      [t("Migrated"), percent(found.migrated_share * 100)],
    ], "meters"),
    el("div", { class: "row" }, links),
    facts([
      [t("Model"), found.model.name],
      [t("Licence"), licence === null ? t("unknown: the model is not installed here") : licence.name],
      [t("Commercial use"), licence === null ? null : licence.non_commercial ? badge_(t("not allowed"), "warn") : t("allowed")],
      [t("Embedding contract"), el("code", {}, found.model.contract)],
      [t("Dimensions"), number(found.model.dimension)],
      [t("Index"), el("span", { class: "row" }, badge(index.state), bytes(index.size_bytes))],
      [t("A search begins"), index.search === "exact" ? t("with every template (the domain is small)") : t("in the index")],
      [t("Table"), bytes(index.table_bytes)],
      [t("Old photos"), t("{waiting} waiting, {extracted} extracted, {failed} failed", {
        waiting: number(photos.waiting), extracted: number(photos.extracted), failed: number(photos.failed) })],
      [t("Complete"), found.complete ? t("yes") : t("not until its first migration has finished; its dataset answers until then")],
      [t("Created"), moment(found.created_at)],
      [t("Id"), el("code", {}, found.id)],
    ]),
    ...(found.migration ? [el("h3", {}, t("Last migration")), migration(found.migration)] : []),
  );
}

function badge_(text, tone) {
  return el("span", { class: `badge ${tone}` }, text);
}

async function create(event) {
  event.preventDefault();
  const field = byId("name");
  byId("name-wrong").textContent = "";
  field.removeAttribute("aria-invalid");
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    const made = await post("/v1/domains", { name: field.value });
    field.value = "";
    byId("list").prepend(row(made));
    byId("none").hidden = true;
    announce(t("{name} was created.", { name: made.name }));
    choose(made);
  } catch (problem) {
    field.setAttribute("aria-invalid", "true");
    byId("name-wrong").textContent = problem.message;
    field.focus();
  } finally {
    button.disabled = false;
  }
}

byId("more").addEventListener("click", listMore);
document.getElementById("create")?.addEventListener("submit", create);
document.addEventListener("visibilitychange", report);

const asked = new URL(location.href).searchParams.get("domain");
await listMore();
if (asked) {
  chosen = await named(asked);
  mark();
  report();
}
