// Persons of a domain as pages show and look for them.

import { get, path } from "./api.js";
import { el } from "./dom.js";
import { tn } from "./i18n.js";

/** Suggestions for a combobox: persons whose name or label contains what is typed. */
export function suggestPersons(domain) {
  return async (text) => {
    const page = await get(path("v1", "domains", domain, "persons"), { q: text, limit: 8 });
    return page.items.map((person) => ({
      value: person.id,
      text: person.display_name,
      detail: [person.label === person.display_name ? null : person.label, tn("{number} face", "{number} faces", person.faces)]
        .filter(Boolean).join(" · "),
    }));
  };
}

/** A small picture of a person where one was kept, else what their name begins with. It says nothing that the name beside it does not. */
export function portrait(domain, person, { pictures }) {
  const initials = [...person.name.trim()].slice(0, 1).join("").toUpperCase();
  const box = el("span", { class: "portrait", "aria-hidden": "true" }, initials);
  if (pictures && person.id !== null) {
    const image = el("img", { src: path("v1", "domains", domain, "persons", person.id, "thumbnail"), alt: "", loading: "lazy", width: 56, height: 56 });
    image.addEventListener("load", () => box.replaceChildren(image));
    image.loading = "eager";  // an image that is not in the page yet would never be asked for
  }
  return box;
}
