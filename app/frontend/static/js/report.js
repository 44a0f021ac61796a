// What pages about the service are made of: facts, tables, states, and how far a migration is.

import { el } from "./dom.js";
import { bytes, moment, number, percent } from "./format.js";
import { t, tn } from "./i18n.js";

/** A list of names and values; what is null is left out. */
export function facts(pairs, kind = "facts") {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined);
  if (kind === "facts") return el("dl", { class: "facts" }, shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  return el("dl", { class: kind }, shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** Fill a `<table>`: `heads` are texts, or `[text, "number"]`; the first cell of each row is its header. */
export function fillTable(table, heads, rows) {
  const columns = heads.map((head) => (Array.isArray(head) ? head : [head, null]));
  table.replaceChildren(
    el("thead", {}, el("tr", {}, columns.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, at) =>
      el(at ? "td" : "th", { scope: at ? null : "row", class: columns[at][1], "data-label": at ? columns[at][0] : null }, cell))))));
  return table;
}

/** A table that may be wider than the page, which then scrolls by itself. */
export function wideTable(label, heads, rows, kind = null) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, fillTable(el("table", { class: kind }), heads, rows));
}

const TONES = {
  ready: "good", idle: "good", finished: "good", succeeded: "good", valid: "good", match: "good", verified: "good",
  busy: "", running: "", queued: "", loading: "warn", degraded: "warn", ambiguous: "warn", interrupted: "warn", missing: "warn", cancelled: "",
  failed: "bad", unavailable: "bad", invalid: "bad", not_verified: "unknown", unknown: "unknown",
};

const WORDS = {
  ready: t("ready"), degraded: t("degraded"), unavailable: t("unavailable"),
  idle: t("idle"), busy: t("busy"), loading: t("loading"), failed: t("failed"),
  queued: t("queued"), running: t("running"), succeeded: t("succeeded"), cancelled: t("cancelled"),
  finished: t("finished"), interrupted: t("interrupted"),
  valid: t("valid"), invalid: t("invalid"), missing: t("missing"),
  match: t("match"), ambiguous: t("ambiguous"), unknown: t("unknown"), verified: t("verified"), not_verified: t("not verified"),
};

/** A state as a word with its colour and sign. */
export function badge(state) {
  return el("span", { class: `badge ${TONES[state] ?? ""}` }, WORDS[state] ?? state);
}

export function time(value) {
  return el("time", { datetime: value, title: value }, moment(value));
}

export function duration(seconds) {
  if (seconds < 90) return tn("{number} second", "{number} seconds", Math.round(seconds));
  if (seconds < 5400) return tn("{number} minute", "{number} minutes", Math.round(seconds / 60));
  return tn("{number} hour", "{number} hours", Math.round(seconds / 3600));
}

/** How far a migration is; `speed` is in rows a second, where somebody has seen it move. */
export function migration(run, speed = null) {
  const left = run.rows === null ? null : Math.max(0, run.rows - run.rows_done);
  const share = run.rows ? run.rows_done / run.rows : run.state === "finished" ? 1 : null;
  const skipped = Object.entries(run.skipped);
  const bar = el("progress", { max: "1", "aria-label": t("Progress of the migration"), ...(share === null ? {} : { value: share }) });
  return el("div", { class: "stack" },
    el("p", { class: "row" }, badge(run.state),
      el("span", {}, run.rows === null ? tn("{number} row done", "{number} rows done", run.rows_done)
        : t("{done} of {rows} rows ({share})", { done: number(run.rows_done), rows: number(run.rows), share: percent((share ?? 1) * 100) })),
      run.state === "running" && speed && left !== null
        ? el("span", { class: "faint" }, t("{speed} rows a second, about {time} left", { speed: number(speed), time: duration(left / speed) })) : null),
    bar,
    facts([
      [t("Dataset"), run.dataset],
      [t("Way"), run.mode === "copy" ? t("embeddings copied") : t("pictures embedded anew")],
      [t("Became templates"), number(run.migrated)],
      [t("Skipped"), skipped.length ? skipped.map(([why, count]) => `${why}: ${number(count)}`).join(", ") : null],
      [t("Error"), run.error],
      [t("Begun"), time(run.started_at)],
      [run.finished_at ? t("Finished") : t("Last step"), time(run.finished_at ?? run.updated_at)],
    ]));
}

export { bytes, moment, number, percent };
