// Persons who may be one, and faces that may be somebody else's; each with what can be done about it.

import { ask, get, post } from "../api.js";
import { announce, byId, confirmed, el, notify } from "../dom.js";
import { chooseDomain } from "../domains.js";
import { number } from "../format.js";
import { t, tn } from "../i18n.js";
import { face, keepDomain, personIn, personLink } from "./common.js";

// A page of either examines so many persons; pages are asked for until there is something to see.
const PERSONS = 500;
const ENOUGH = 20;

let domain = null;

/** One of the two lists: goes on through the persons, some at a time, while somebody looks. */
class Search {
  constructor(name, address, item, none) {
    this.address = address;
    this.item = item;
    this.none = none;
    this.list = byId(name);
    this.told = byId(`${name}-found`);
    this.more = byId(`${name}-more`);
    this.more.addEventListener("click", () => this.go());
  }

  begin() {
    this.asking?.abort();
    this.cursor = null;
    this.examined = 0;
    this.cut = false;
    this.list.replaceChildren();
    return this.go();
  }

  async go() {
    const own = (this.asking = new AbortController());
    this.more.hidden = true;
    const before = this.list.children.length;
    try {
      do {
        this.told.textContent = t("Looking… {number} persons so far", { number: number(this.examined) });
        const page = await get(`/v1/domains/${encodeURIComponent(domain.id ?? domain.name)}/${this.address}`,
          { limit: PERSONS, cursor: this.cursor }, { signal: own.signal });
        this.list.append(...page.items.map(this.item));
        this.examined += page.examined;
        this.cut ||= page.truncated;
        this.cursor = page.next_cursor;
      } while (this.cursor !== null && this.list.children.length - before < ENOUGH);
    } catch (problem) {
      if (problem.name !== "AbortError") this.told.textContent = problem.message;
      return;
    }
    this.more.hidden = this.cursor === null;
    const looked = tn("{number} person looked at.", "{number} persons looked at.", this.examined);
    const none = this.list.children.length === 0 && this.cursor === null ? this.none : null;
    this.told.textContent = [looked, none, this.cut ? t("There are more than are shown.") : null].filter(Boolean).join(" ");
  }
}

function pairItem({ persons: [one, other], distance }) {
  const keep = (kept, gone) => el("button", {
    type: "button", class: "small", onclick: () => merge(kept, gone, item),
    "aria-label": t("Keep {kept}, and merge {gone} into them", { gone: gone.name, kept: kept.name }),
  }, t("Keep {name}", { name: kept.name }));
  const link = (person) => personLink(domain, person, { has: person.has_image });
  const item = el("li", { class: "card" },
    el("div", { class: "versus" }, link(one), link(other)),
    el("p", { class: "faint" }, t("Distance {distance}", { distance: number(distance, 3) })),
    el("div", { class: "row" }, keep(one, other), keep(other, one),
      el("button", { type: "button", class: "small quiet", onclick: () => dismiss(item) }, t("Leave both"))));
  item.dataset.persons = `${one.id} ${other.id}`;
  return item;
}

async function merge(kept, gone, item) {
  const text = t("All that is of {one} becomes {other}’s, and {one} is gone. This cannot be undone.", { one: gone.name, other: kept.name });
  if (!await confirmed(t("Merge two persons?"), text, { action: t("Merge") })) return;
  try {
    const merged = await post(`${personIn(domain, kept)}/merge`, { from: gone.id });
    // Whatever else was said of who is gone holds no more.
    for (const about of document.querySelectorAll("[data-persons]")) {
      if (about !== item && about.dataset.persons.split(" ").includes(gone.id)) about.remove();
    }
    dismiss(item);
    notify(t("{name} has {faces} now.", {
      name: merged.person.display_name, faces: tn("{number} face", "{number} faces", merged.person.faces),
    }));
  } catch (problem) {
    notify(problem.message, "bad");
  }
}

function outlierItem(found) {
  const { person, resembles } = found;
  const item = el("li", { class: "card" },
    el("div", { class: "versus" },
      face(`${personIn(domain, person)}/faces/${found.face_id}`, person.name, { has: found.has_image, large: true, alt: t("The face in question") }),
      el("div", { class: "grow" },
        el("p", {}, tn("Among {number} face of", "Among {number} faces of", found.faces), " ", personLink(domain, person, { has: found.has_image })),
        resembles ? el("p", {}, t("Looks like"), " ", personLink(domain, resembles.person, { has: false })) : null,
        el("p", { class: "faint" }, t("Distance {distance}", { distance: number(found.distance, 3) })))),
    el("div", { class: "row" },
      el("button", {
        type: "button", class: "small danger", onclick: () => remove(found, item),
        "aria-label": t("Delete this face of {name}", { name: person.name }),
      }, t("Delete this face")),
      el("button", { type: "button", class: "small quiet", onclick: () => dismiss(item) }, t("Leave it"))));
  item.dataset.persons = person.id;
  return item;
}

async function remove(found, item) {
  const text = t("{name} will be recognised by the other faces.", { name: found.person.name });
  if (!await confirmed(t("Delete this face?"), text, { action: t("Delete") })) return;
  try {
    await ask("DELETE", `${personIn(domain, found.person)}/faces/${found.face_id}`);
    dismiss(item);
    announce(t("The face was deleted."));
  } catch (problem) {
    notify(problem.message, "bad");
  }
}

/** Out of the list, with the next one in the reader's hands. */
function dismiss(item) {
  const next = item.nextElementSibling ?? item.previousElementSibling;
  const heading = item.closest("section").querySelector("h2");
  item.remove();
  if (next) next.querySelector("button").focus();
  else {
    heading.tabIndex = -1;
    heading.focus();
  }
}

const searches = [
  new Search("duplicates", "duplicates", pairItem, t("No two are near to each other.")),
  new Search("outliers", "outliers", outlierItem, t("None is far from the others of its person.")),
];

await chooseDomain(byId("domain"), (chosen) => {
  domain = chosen;
  keepDomain(domain);
  return domain ? Promise.all(searches.map((search) => search.begin())) : null;
}).catch((problem) => notify(problem.message, "bad"));
