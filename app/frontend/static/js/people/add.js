// Enrol many pictures: they are dropped, told whose they are, and sent some at a time, each with a result of its own.

import { ask, idempotencyKey } from "../api.js";
import { byId, el, notify } from "../dom.js";
import { chooseDomain } from "../domains.js";
import { bytes } from "../format.js";
import { t, tn } from "../i18n.js";
import { keepDomain, personsOf, pageOf } from "./common.js";
import { dropped, foldersAround, isPicture, personFor } from "./names.js";
import { Queue } from "./queue.js";

// As many as a browser sends at a time, but for one: the page is to stay alive.
const AT_ONCE = 4;
const ROWS = 1000;

const maxBytes = Number(byId("add").dataset.maxBytes);
const loose = byId("loose");
const results = byId("results");
const progress = byId("progress");

let domain = null;
let given = [];  // { file, path, skip }
let tasks = [];
let queue = null;

function take(files) {
  const pictures = files.filter(({ file }) => isPicture(file));
  const others = files.length - pictures.length;
  if (others > 0) notify(tn("{number} file is no picture (JPEG, PNG, WebP, BMP) and was left out.",
    "{number} files are no pictures (JPEG, PNG, WebP, BMP) and were left out.", others), "warn");
  const skip = foldersAround(pictures.map(({ path }) => path));
  given.push(...pictures.map((one) => ({ ...one, skip })));
  plan();
}

function groups() {
  const found = new Map();
  for (const { file, path, skip } of given) {
    const name = personFor(path, skip, loose.value.trim());
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(file);
  }
  return found;
}

function plan() {
  const found = groups();
  byId("plan").hidden = found.size === 0;
  byId("plan-heading").textContent = t("{pictures} of {persons}", {
    pictures: tn("{number} picture", "{number} pictures", given.length),
    persons: tn("{number} person", "{number} persons", found.size),
  });
  byId("planned").replaceChildren(...[...found].map(([name, files]) =>
    el("li", {}, name, " ", el("span", { class: "faint" }, tn("{number} picture", "{number} pictures", files.length)))));
}

function start() {
  const added = [...groups()].flatMap(([person, files]) => files.map((file) => task(person, file)));
  given = [];
  plan();
  byId("work").hidden = false;
  byId("work-heading").scrollIntoView({ block: "nearest" });
  tasks.push(...added);
  work(added);
}

/** One picture on its way. Its key stays with it: sent again after an answer was lost, it is enrolled once. */
function task(person, file) {
  const result = el("td");
  const made = { person, file, key: idempotencyKey(), domain, state: "waiting", result };
  made.row = el("tr", {}, el("td", {}, file.name), el("td", {}, person), result);
  show(made, "", t("waiting"));
  results.append(made.row);
  return made;
}

function show(one, kind, word, text = null, extra = null) {
  one.result.replaceChildren(el("span", { class: `badge ${kind}` }, word), text ? ` ${text}` : "", extra ?? "");
}

async function work(some) {
  if (!queue || queue.stopped) queue = new Queue(enrol, AT_ONCE);
  const own = queue;
  byId("stop").hidden = false;
  byId("retry").hidden = true;
  tell();
  await own.run(some);
  if (own !== queue) return;
  byId("stop").hidden = true;
  byId("retry").hidden = !tasks.some((one) => one.state === "failed");
  tell();
}

async function enrol(one, signal) {
  one.state = "sending";
  show(one, "", t("sending"));
  try {
    if (one.file.size > maxBytes) throw refused(t("The picture is larger than {size}.", { size: bytes(maxBytes) }));
    const form = new FormData();
    form.append("file", one.file);
    const answer = await ask("POST", await facesOf(one, signal), { form, signal, key: one.key, retries: 5 });
    const [{ warnings }] = answer.results;
    one.state = "enrolled";
    const noticed = warnings.map((warning) => t("looks like {name}", { name: warning.person.name })).join(", ");
    const link = el("a", { href: pageOf(one.domain, answer.person) }, t("show"));
    show(one, warnings.length > 0 ? "warn" : "good", t("enrolled"), noticed, el("span", {}, " ", link));
  } catch (problem) {
    if (problem.name === "AbortError") {
      one.state = "failed";
      show(one, "", t("stopped"));
    } else {
      // What the picture itself is the reason of is not tried again.
      const final = problem.status >= 400 && problem.status < 500 && problem.status !== 429 && problem.status !== 401;
      one.state = final ? "rejected" : "failed";
      const twice = problem.code === "duplicate";
      show(one, twice ? "" : "bad", twice ? t("was there") : final ? t("not enrolled") : t("failed"), problem.message);
    }
  }
  forgetOldRows();
  tell();
}

function refused(message) {
  return Object.assign(new Error(message), { status: 413 });
}

const made = new Map();

/** Where a person's faces go. Of a name that cannot stand in a path, the person is made first, and called by id. */
async function facesOf(one, signal) {
  const persons = personsOf(one.domain);
  if (!/[/\\]|^\.{1,2}$/u.test(one.person)) return `${persons}/${encodeURIComponent(one.person)}/faces`;
  const key = `${one.domain.name}\n${one.person}`;
  if (!made.has(key)) made.set(key, personId(persons, one.person, signal).catch((problem) => { made.delete(key); throw problem; }));
  return `${persons}/${await made.get(key)}/faces`;
}

async function personId(persons, label, signal) {
  try {
    return (await ask("POST", persons, { json: { label }, signal })).id;
  } catch (problem) {
    if (problem.code !== "person_exists") throw problem;
    const page = await ask("GET", persons, { query: { q: label, limit: 500 }, signal });
    const found = page.items.find((item) => item.label === label.normalize("NFC").trim());
    if (!found) throw problem;
    return found.id;
  }
}

/** A page of tens of thousands of rows is of no use to anybody; those that went well go first. */
function forgetOldRows() {
  if (results.children.length <= ROWS) return;
  const over = results.children.length - ROWS;
  for (const one of tasks.filter(({ state, row }) => state === "enrolled" && row.isConnected).slice(0, over)) one.row.remove();
}

function tell() {
  const count = (...states) => tasks.filter(({ state }) => states.includes(state)).length;
  const [enrolled, rejected, failed] = [count("enrolled"), count("rejected"), count("failed")];
  progress.max = Math.max(tasks.length, 1);
  progress.value = enrolled + rejected + failed;
  byId("progress-text").textContent = [
    t("{done} of {all}", { done: progress.value, all: tasks.length }),
    tn("{number} enrolled", "{number} enrolled", enrolled),
    ...(rejected ? [tn("{number} not enrolled", "{number} not enrolled", rejected)] : []),
    ...(failed ? [tn("{number} failed", "{number} failed", failed)] : []),
  ].join(" · ");
}

function stop() {
  for (const one of queue.stop()) {
    one.state = "failed";
    show(one, "", t("stopped"));
  }
  tell();
}

function retry() {
  const again = tasks.filter(({ state }) => state === "failed");
  for (const one of again) {
    one.state = "waiting";
    show(one, "", t("waiting"));
  }
  work(again);
}

const drop = byId("drop");
for (const name of ["dragenter", "dragover"]) {
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(await dropped(event.dataTransfer));
});
byId("files").addEventListener("change", (event) => {
  take([...event.target.files].map((file) => ({ file, path: file.name })));
  event.target.value = "";
});
byId("folder").addEventListener("change", (event) => {
  take([...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
  event.target.value = "";
});
loose.addEventListener("input", plan);
byId("start").addEventListener("click", start);
byId("discard").addEventListener("click", () => { given = []; plan(); });
byId("stop").addEventListener("click", stop);
byId("retry").addEventListener("click", retry);
addEventListener("beforeunload", (event) => {
  if (tasks.some(({ state }) => state === "waiting" || state === "sending")) event.preventDefault();
});

loose.value = new URL(location.href).searchParams.get("label") ?? "";
await chooseDomain(byId("domain"), (chosen) => {
  domain = chosen;
  keepDomain(domain);
  byId("start").disabled = !domain;
}).catch((problem) => notify(problem.message, "bad"));
