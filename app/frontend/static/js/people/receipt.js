// What an erasure has done, in words.

import { el } from "../dom.js";
import { moment, number } from "../format.js";
import { t } from "../i18n.js";

const PLACES = {
  templates: () => t("templates"),
  rejections: () => t("rejections"),
  reference_photos: () => t("reference photos"),
  sessions: () => t("sessions"),
  job_files: () => t("files of jobs"),
  kept_answers: () => t("kept answers"),
  pictures: () => t("pictures"),
  dataset_rows: () => t("rows of the dataset"),
  face_cache: () => t("extracted faces"),
  persons: () => t("persons"),
};

export function receipt(told) {
  const facts = Object.entries(told.counts).filter(([, count]) => count > 0)
    .flatMap(([place, count]) => [el("dt", {}, PLACES[place]?.() ?? place), el("dd", {}, number(count))]);
  return el("section", { class: "card stack", "aria-labelledby": "receipt" },
    el("h2", { id: "receipt", tabindex: -1 }, told.state === "finished" ? t("Erased") : t("Erased, but for what is named below")),
    el("p", {}, t("Receipt {id}, {moment}", { id: told.receipt, moment: moment(told.erased_at) })),
    el("dl", { class: "facts" }, ...facts),
    remnants(t("Not done yet; it is tried again:"), told.unfinished, "bad"),
    remnants(t("Where something remains for a while:"), told.remains, ""));
}

function remnants(title, entries, kind) {
  if (entries.length === 0) return null;
  return el("div", { class: `notice ${kind}` }, el("p", {}, title),
    el("ul", {}, ...entries.map(({ place, why }) => el("li", {}, el("strong", {}, place), `: ${why}`))));
}
