// How the service is, as far as the key may see it; asked anew every few seconds while somebody looks.

import { get, path, post } from "./api.js";
import { byId, confirmed, el, notify } from "./dom.js";
import { chooseDomain } from "./domains.js";
import { moment, number, percent } from "./format.js";
import { locale, t, tn } from "./i18n.js";
import { polling } from "./polling.js";
import { badge, bytes, duration, facts, migration, time, wideTable } from "./report.js";

const EVERY_MS = 3000;
const LISTED = 20;
const JOBS = document.getElementById("jobs");
const DECISIONS = document.getElementById("decisions");
const OPERATIONS = "operations" in byId("pool").dataset;

const shown = new Map();
const moved = new Map();  // of each running migration, when and where it was first seen
const names = new Map();
let domain = null;

const CAUSES = {
  recycled_jobs: t("had done its share (as it should be)"),
  recycled_memory: t("had grown (as it should be)"),
  memory: t("out of memory"),
  hang: t("did not answer"),
  load_timeout: t("the model took too long to load"),
  not_loaded: t("the model could not be loaded"),
  error: t("an error"),
};

/** Draw a section anew where something has changed, and leave the focus where it was. */
function draw(id, data, build) {
  const text = JSON.stringify(data);
  if (shown.get(id) === text) return;
  shown.set(id, text);
  const body = byId(`${id}-body`);
  const key = body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  body.replaceChildren(...[build(data)].flat());
  if (key) [...body.querySelectorAll("[data-key]")].find((element) => element.dataset.key === key)?.focus();
}

function failed(id, problem) {
  draw(id, { problem: problem.message, code: problem.code }, (told) => el("p", { class: "notice bad" }, told.problem));
}

// Service and pool

async function askService() {
  const ready = await fetch("/readyz").then((answer) => answer.json());
  draw("service", { status: ready.status, reasons: ready.reasons, checks: ready.checks }, showService);
  if (!OPERATIONS) draw("pool", ready.checks.pool, (pool) => showPool({ ...pool, problem: pool.problem ?? null }));
}

function showService({ status, reasons, checks }) {
  const database = checks.database.disabled ? t("switched off") : checks.database.ok ? t("answers") : checks.database.problem;
  const datasets = checks.datasets;
  return [
    el("p", {}, badge(status)),
    ...reasons.map((reason) => el("p", { class: "notice bad" }, reason)),
    facts([
      [t("Database"), database],
      [t("Model"), checks.model.name ?? checks.model.problem],
      [t("Datasets"), datasets ? t("{usable} of {domains} can be used", { usable: number(datasets.usable), domains: number(datasets.domains) }) : null],
    ]),
  ];
}

async function askOperations() {
  const told = await get("/v1/operations");
  draw("pool", { pool: told.pool, cache: told.cache, queue: told.queue, problems: told.problems }, showOperations);
}

function showOperations({ pool, cache, queue, problems }) {
  const parts = problems.map((problem) => el("p", { class: "notice bad" }, problem));
  const lookups = cache.hits + cache.misses + cache.unavailable;
  parts.push(facts([
    [t("Waiting for a worker"), pool && number(pool.queue_length)],
    [t("Waiting in the background"), pool && number(pool.background_queue_length)],
    [t("Cache of faces: hits"), cache.hit_rate === null ? t("not asked yet") : percent(cache.hit_rate * 100)],
    [t("Jobs waiting"), queue && number(queue.waiting)],
    [t("Pictures in quarantine"), pool && number(pool.quarantined)],
  ], "meters"));
  if (lookups) parts.push(el("p", { class: "faint" }, t("Cache: {hits} hits of {lookups} lookups, {away} while Redis did not answer.", {
    hits: number(cache.hits), lookups: number(lookups), away: number(cache.unavailable) })));
  if (queue?.waiting) parts.push(el("p", { class: "faint" }, t("The oldest job has waited for {time}.", { time: duration(queue.oldest_s) })));
  if (pool) parts.push(...showPool(pool));
  return parts;
}

function showPool(pool) {
  const parts = [];
  if (pool.problem) parts.push(el("p", { class: "notice bad" }, pool.problem));
  if (!OPERATIONS && pool.workers) {
    parts.push(facts([
      [t("Waiting for a worker"), number(pool.queue_length)],
      [t("Waiting in the background"), number(pool.background_queue_length)],
    ], "meters"));
  }
  const heads = [t("Worker"), t("Model"), t("State"), ...(OPERATIONS ? [[t("Jobs done"), "number"], [t("Memory"), "number"]] : [])];
  if (pool.workers) parts.push(wideTable(t("Workers"), heads, pool.workers.map((worker) => [
    worker.name,
    worker.model,
    el("span", { class: "row" }, badge(worker.state), worker.lane === "background" && t("in the background"),
      worker.problem && el("span", { class: "wrong" }, worker.problem)),
    ...(OPERATIONS ? [number(worker.jobs), bytes(worker.rss_bytes)] : []),
  ])));
  if (!pool.restarts) return parts;
  const restarts = Object.entries(pool.restarts);
  const outcomes = Object.entries(pool.jobs).sort();
  parts.push(el("h3", {}, t("Since the pool was started")));
  parts.push(facts([
    [t("Workers replaced"), restarts.length
      ? restarts.map(([cause, count]) => `${number(count)} × ${CAUSES[cause] ?? cause}`).join("; ") : t("none")],
    [t("Pictures by outcome"), outcomes.length ? outcomes.map(([outcome, count]) => `${outcome}: ${number(count)}`).join(", ") : t("none")],
  ]));
  return parts;
}

// Migrations

async function askMigrations() {
  const { items } = await get("/v1/migrations", { limit: LISTED });
  draw("migrations", items, showMigrations);
}

function showMigrations(items) {
  if (!items.length) return el("p", { class: "faint" }, t("No dataset was migrated."));
  return items.map(({ domain: name, migration: run }) => el("article", { class: "stack", "aria-label": name },
    el("h3", {}, name), migration(run, speedOf(name, run))));
}

/** Rows a second since this page saw the run first; null before it has moved. */
function speedOf(name, run) {
  const key = `${name} ${run.started_at}`;
  if (run.state !== "running") return moved.delete(key) && null;
  const first = moved.get(key);
  if (!first) {
    moved.set(key, { at: Date.now(), rows: run.rows_done });
    return null;
  }
  const rows = run.rows_done - first.rows;
  return rows > 0 ? rows / ((Date.now() - first.at) / 1000) : null;
}

// Jobs

async function askJobs() {
  const { items } = await get("/v1/jobs", { limit: LISTED, state: byId("job-state").value });
  draw("jobs", items, showJobs);
}

function showJobs(items) {
  if (!items.length) return el("p", { class: "faint" }, t("There are none."));
  const heads = [t("Kind"), t("Domain"), t("State"), t("Done"), t("Begun"), t("What to do")];
  return wideTable(t("Jobs"), heads, items.map((job) => [
    job.kind,
    job.domain ?? "–",
    el("span", { class: "row" }, badge(job.state), job.error && el("span", { class: "wrong" }, job.error.detail)),
    job.total === null ? number(job.done) : t("{done} of {total}", { done: number(job.done), total: number(job.total) }),
    time(job.created_at),
    action(job),
  ]), "jobs");
}

function action(job) {
  const what = { kind: job.kind, domain: job.domain ?? "–" };
  if (job.state === "queued" || job.state === "running") {
    return el("button", { type: "button", class: "small danger", dataset: { key: `cancel ${job.id}` },
      "aria-label": t("Cancel {kind} of {domain}", what), onclick: () => cancel(job) }, t("Cancel"));
  }
  if (job.state === "failed" || job.state === "cancelled") {
    return el("button", { type: "button", class: "small", dataset: { key: `retry ${job.id}` },
      "aria-label": t("Try {kind} of {domain} again", what), onclick: () => act(job, "retry") }, t("Try again"));
  }
  return "";
}

async function cancel(job) {
  if (await confirmed(t("Cancel this job?"), t("What it has done stays."), { action: t("Cancel the job") })) await act(job, "cancel");
}

async function act(job, what) {
  try {
    await post(path("v1", "jobs", job.id, what), undefined);
  } catch (problem) {
    notify(problem.message, "bad");
  }
  poll.now();
}

// Decisions

async function askDecisions() {
  if (!domain?.id) return;
  const asked = domain;
  const [recognised, verified] = await Promise.all(["recognition.answered", "verification.answered"].map((kind) =>
    get(path("v1", "domains", asked.id, "audit"), { action: kind, limit: LISTED })));
  const events = [...recognised.items, ...verified.items].sort((one, other) => other.seq - one.seq).slice(0, LISTED);
  if ("names" in DECISIONS.dataset) await learnNames(asked, events);
  if (asked === domain) draw("decisions", { domain: asked.id, events, names: [...names] }, ({ events: found }) => showDecisions(found));
}

async function learnNames(asked, events) {
  const unknown = new Set(events.flatMap((event) => event.persons).filter((id) => !names.has(id)));
  await Promise.all([...unknown].slice(0, LISTED).map(async (id) => {
    try {
      names.set(id, (await get(path("v1", "domains", asked.id, "persons", id))).display_name);
    } catch {
      names.set(id, null);  // erased since
    }
  }));
}

function showDecisions(events) {
  if (!events.length) return el("p", { class: "faint" }, t("Nothing was decided yet."));
  const heads = [t("When"), t("What"), t("Decisions"), t("By key")];
  return wideTable(t("Recent decisions"), heads, events.map((event) => [
    el("time", { datetime: event.at }, moment(event.at)),
    event.action === "recognition.answered" ? t("identified (1:N)") : t("verified (1:1)"),
    el("ul", { class: "plain" }, decisions(event).map((parts) => el("li", { class: "row" }, parts))),
    event.client.slice(0, 8),
  ]));
}

function decisions({ action: kind, details, persons }) {
  if (kind === "verification.answered") {
    const yes = details.verified ?? details.outcome === "verified";
    return [[badge(yes ? "verified" : "not_verified"), persons.map(nameOf).join(", ")]];
  }
  const faces = Object.entries(details).filter(([name]) => /^face_\d+$/.test(name)).map(([, value]) => String(value).split(" "));
  const told = faces.map(([decision, person]) => [badge(decision), person ? nameOf(person) : ""]);
  const more = (details.faces ?? told.length) - told.length;
  if (more > 0) told.push([tn("and {number} more face", "and {number} more faces", more)]);
  return told.length ? told : [[t("no face")]];
}

function nameOf(id) {
  return names.get(id) ?? (names.has(id) ? t("somebody who is gone") : id.slice(0, 8));
}

// All of it

async function askAll() {
  const parts = { service: askService, migrations: askMigrations };
  if (OPERATIONS) parts.pool = askOperations;
  if (JOBS) parts.jobs = askJobs;
  if (DECISIONS) parts.decisions = askDecisions;
  const outcomes = await Promise.all(Object.entries(parts).map(async ([id, ask]) => {
    try {
      await ask();
      return true;
    } catch (problem) {
      failed(id, problem);
      return false;
    }
  }));
  byId("as-of").textContent = t("As of {time}", { time: new Date().toLocaleTimeString(locale()) });
  if (outcomes.includes(false)) throw new Error("a part does not answer");
}

const poll = polling(askAll, EVERY_MS);
byId("pause").addEventListener("click", () => {
  const paused = byId("pause").getAttribute("aria-pressed") !== "true";
  byId("pause").setAttribute("aria-pressed", String(paused));
  poll.pause(paused);
});
document.getElementById("job-state")?.addEventListener("change", () => poll.now());
if (DECISIONS) {
  await chooseDomain(byId("domain"), (chosen) => {
    domain = chosen;
    shown.delete("decisions");
    poll.now();
  }).catch((problem) => notify(problem.message, "bad"));
}
poll.now();
