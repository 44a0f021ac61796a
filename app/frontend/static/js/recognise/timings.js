// Which service answered, and where the time went.

import { el } from "../dom.js";
import { milliseconds, number } from "../format.js";
import { t } from "../i18n.js";

const SERVICES = { pgvector: () => t("the database (pgvector)"), pkl: () => t("the dataset (PKL)") };
const REASONS = {
  not_migrated: () => t("the domain has not been migrated to the database yet"),
  database_unavailable: () => t("the database cannot be reached"),
};
const STAGES = {
  decode: () => t("Decoding"), detect: () => t("Finding faces"), embed: () => t("Measuring faces"),
  search: () => t("Searching"), cache: () => t("From the cache"),
};

/** `times` are the browser's own: until the picture was sent, and until the answer was there. */
export function howAnswered(answer, { upload_ms, total_ms }) {
  const server_ms = answer.elapsed_time * 1000;
  const stages = Object.entries(answer.timings_ms);
  const known_ms = stages.reduce((sum, [, ms]) => sum + ms, 0);
  const rows = [
    [t("Upload"), upload_ms],
    ...stages.map(([stage, ms]) => [STAGES[stage]?.() ?? stage, ms]),
    [t("Rest of the service"), Math.max(0, server_ms - known_ms)],
    [t("Network and browser"), Math.max(0, total_ms - upload_ms - server_ms)],
  ];
  const most_ms = Math.max(...rows.map(([, ms]) => ms), 1);
  const reason = answer.fallback_reason ? REASONS[answer.fallback_reason]?.() ?? answer.fallback_reason : null;
  return el("details", { class: "how" },
    el("summary", {}, t("Answered in {time} by {service}", { time: milliseconds(server_ms), service: SERVICES[answer.mode]?.() ?? answer.mode })),
    reason ? el("p", { class: "notice warn" }, t("Not by the service that is chosen: {reason}.", { reason })) : null,
    el("table", { class: "times" },
      el("caption", { class: "for-readers" }, t("Where the time went")),
      el("tbody", {}, ...rows.map(([name, ms]) => el("tr", {},
        el("th", { scope: "row" }, name),
        el("td", { class: "number" }, milliseconds(ms)),
        el("td", { class: "bar" }, el("meter", { min: 0, max: most_ms, value: ms, "aria-hidden": "true" })))),
      el("tr", { class: "sum" }, el("th", { scope: "row" }, t("Altogether")), el("td", { class: "number" }, milliseconds(total_ms)), el("td")))),
    el("dl", { class: "facts" },
      el("dt", {}, t("Domain")), el("dd", {}, answer.domain),
      el("dt", {}, t("Model")), el("dd", {}, answer.model),
      el("dt", {}, t("Threshold")), el("dd", {}, number(answer.threshold, 3)),
      el("dt", {}, t("Picture")), el("dd", {}, t("{width} by {height} pixels", { width: number(answer.image.width), height: number(answer.image.height) })),
      el("dt", {}, t("Request")), el("dd", {}, answer.request_id)));
}
