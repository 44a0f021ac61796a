// One face: what was decided, who else it could be, and what somebody who knows better can do about it.

import { el } from "../dom.js";
import { number, percent } from "../format.js";
import { t } from "../i18n.js";
import { portrait } from "../persons.js";
import { enrolAs, notThisPerson } from "./correcting.js";
import { cut } from "./cutting.js";

const WORDS = { match: () => t("Match"), ambiguous: () => t("Ambiguous"), unknown: () => t("Unknown") };
const KINDS = { match: "good", ambiguous: "warn", unknown: "unknown" };
const SIGNS = { match: "✓", ambiguous: "≈", unknown: "?" };
const SHOWN_PX = 72;

export const wordFor = (face) => WORDS[face.decision]();
export const signOf = (face) => SIGNS[face.decision];

/** Who it is, in words: nobody where that is unknown, two where it could be either. */
export function named(face) {
  const [first, second] = face.candidates;
  if (face.decision === "unknown" || !first) return t("nobody who is known here");
  if (face.decision === "ambiguous" && second) return t("{first} or {second}", { first: first.person.name, second: second.person.name });
  return first.person.name;
}

export function faceCard(picture, answer, face, index) {
  const { may } = picture.settings;
  const canvas = el("canvas", { width: SHOWN_PX, height: SHOWN_PX, class: "portrait", role: "img", "aria-label": t("Face {number}", { number: index + 1 }) });
  cut(picture.image, answer.image, face.box, { margin: 0.25, square: true }).then((source) => {
    canvas.getContext("2d").drawImage(source, 0, 0, SHOWN_PX, SHOWN_PX);
  }, () => canvas.remove());
  const actions = el("div", { class: "row" });
  const answered = answer.mode === "pgvector";
  if (answered && may.has("reject") && face.decision !== "unknown") {
    const suspects = face.decision === "ambiguous" ? face.candidates.slice(0, 2) : face.candidates.slice(0, 1);
    for (const { person } of suspects) {
      actions.append(el("button", { type: "button", class: "small", onclick: () => notThisPerson(picture, index, person) },
        suspects.length > 1 ? t("Not {name}", { name: person.name }) : t("Not this person")));
    }
  }
  if (answered && may.has("enrol")) {
    actions.append(el("button", { type: "button", class: "small", onclick: () => enrolAs(picture, answer, face) }, t("Enrol this face as…")));
  }
  return el("li", { class: `face ${face.decision}`, tabindex: -1 },
    el("div", { class: "row top-row" }, canvas,
      el("div", { class: "grow" },
        el("span", { class: `badge ${KINDS[face.decision]}` }, wordFor(face)),
        el("h3", {}, named(face)),
        face.decision === "match" ? el("small", {}, t("{confidence} sure", { confidence: percent(face.candidates[0].confidence) })) : null)),
    candidates(picture, answer, face),
    actions);
}

function candidates(picture, answer, face) {
  if (!face.candidates.length) return null;
  const domain = picture.domain.id ?? picture.domain.name;
  const pictures = picture.settings.may.has("pictures");
  const items = face.candidates.map(({ person, distance, confidence }) => el("li", { class: distance <= answer.threshold ? "near" : "" },
    portrait(domain, person, { pictures }),
    el("div", { class: "grow" },
      el("span", { class: "name" }, person.name),
      el("small", {}, t("{confidence} · distance {distance}", { confidence: percent(confidence), distance: number(distance, 3) })))));
  const title = face.decision === "unknown" ? t("Nearest, and not near enough") : t("Candidates");
  return el("details", { open: face.decision === "ambiguous" },
    el("summary", {}, title), el("ol", { class: "plain candidates" }, ...items));
}
