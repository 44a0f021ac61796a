// What the pages about people share: addresses, faces, and what is to be seen of a person at a glance.

import { el } from "../dom.js";
import { day } from "../format.js";
import { t } from "../i18n.js";

const RETRIES = 3;

/** Where the API has a domain's persons. An id stands for every name: some names cannot stand in a path. */
export const personsOf = (domain) => `/v1/domains/${encodeURIComponent(domain.id ?? domain.name)}/persons`;

export const personIn = (domain, person) => `${personsOf(domain)}/${encodeURIComponent(person.id)}`;

/** The page about a person. */
export const pageOf = (domain, person) => `/people/person?${new URLSearchParams({ domain: domain.name, label: person.label })}`;

/** Have the links between the pages about people lead to the same domain. */
export function keepDomain(domain) {
  for (const link of document.querySelectorAll("a[data-keeps-domain]")) {
    const url = new URL(link.href);
    if (domain) url.searchParams.set("domain", domain.name);
    link.href = url.pathname + url.search;
  }
}

/** A small picture of a face; initials where there is none. `address` is that of the person, or of the face, in the API. */
export function face(address, name, { has, large = false, alt = "" } = {}) {
  const style = large ? "face large" : "face";
  if (!has) return initials(name, style);
  const image = el("img", { class: style, width: 128, height: 128, loading: "lazy", decoding: "async", alt });
  let left = RETRIES;
  image.addEventListener("error", () => {
    left -= 1;
    if (left === 0) image.replaceWith(initials(name, style));
    else setTimeout(() => { image.src = `${address}/thumbnail?again=${left}`; }, 1500 * (RETRIES - left));
  });
  image.src = `${address}/thumbnail`;
  return image;
}

function initials(name, style) {
  const letters = name.split(/\s+/u).map((word) => [...word].find((letter) => /[\p{L}\p{N}]/u.test(letter))).filter(Boolean);
  const shown = letters.length > 1 ? [letters[0], letters.at(-1)] : letters;
  return el("span", { class: style, "aria-hidden": "true" }, shown.join("").toLocaleUpperCase() || "?");
}

const QUALITIES = {
  good: () => ["good", t("good pictures"), t("good")],
  fair: () => ["", t("fair pictures"), t("fair")],
  poor: () => ["warn", t("poor pictures"), t("poor")],
  unknown: () => ["unknown", t("pictures not measured"), t("not measured")],
};

/** What the best face of a person is worth, or one face. */
export function quality(grade, { one = false } = {}) {
  if (!grade) return null;
  const [kind, many, single] = QUALITIES[grade]();
  return el("span", { class: `badge ${kind}` }, one ? single : many);
}

/** Whether a person can be recognised now, where that is not for ever. */
export function validity(person) {
  if (!person.valid) {
    const later = person.valid_from && new Date(person.valid_from) > new Date();
    return el("span", { class: "badge bad" },
      later ? t("valid from {day}", { day: day(person.valid_from) }) : t("not valid any more"));
  }
  return person.valid_until ? el("span", { class: "badge" }, t("valid until {day}", { day: day(person.valid_until) })) : null;
}

/** A person as a link, with their face. */
export function personLink(domain, person, { has = true } = {}) {
  return el("a", { class: "person", href: pageOf(domain, person) },
    face(personIn(domain, person), person.name ?? person.display_name, { has }),
    el("span", {}, person.name ?? person.display_name));
}
