// Everybody in a domain: found while somebody types, some at a time.

import { get } from "../api.js";
import { byId, debounced, el, notify } from "../dom.js";
import { chooseDomain } from "../domains.js";
import { number } from "../format.js";
import { t, tn } from "../i18n.js";
import { face, keepDomain, pageOf, personIn, personsOf, quality, validity } from "./common.js";

const AT_ONCE = 50;

const list = byId("persons");
const found = byId("found");
const more = byId("more");
const search = byId("search");

let domain = null;
let cursor = null;
let total = 0;
let asking = null;

async function load({ anew }) {
  asking?.abort();
  const own = (asking = new AbortController());
  const typed = search.value.trim();
  list.setAttribute("aria-busy", "true");
  try {
    const query = { q: typed, limit: AT_ONCE, cursor: anew ? null : cursor };
    const page = await get(personsOf(domain), query, { signal: own.signal });
    const items = page.items.map(item);
    if (anew) {
      list.replaceChildren(...items);
      total = page.total;
    } else {
      list.append(...items);
      items[0]?.querySelector("a").focus();
    }
    cursor = page.next_cursor;
    more.hidden = cursor === null;
    say(typed);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    found.textContent = problem.message;
    if (anew) list.replaceChildren();
    more.hidden = true;
  }
  if (asking === own) list.removeAttribute("aria-busy");
}

function item(person) {
  const about = [tn("{number} face", "{number} faces", person.faces), quality(person.quality), validity(person)];
  const label = person.label === person.display_name ? null : person.label;
  return el("li", {}, el("a", { href: pageOf(domain, person) },
    face(personIn(domain, person), person.display_name, { has: person.has_image }),
    el("span", { class: "who" },
      el("span", { class: "name" }, person.display_name),
      el("span", { class: "about" }, label && el("span", {}, label), ...about.filter(Boolean).map((part) => el("span", {}, part))))));
}

function say(typed) {
  const shown = list.children.length;
  if (total === 0) found.textContent = typed ? t("Nobody is called like that.") : t("Nobody is in this domain yet.");
  else if (shown < total) found.textContent = t("{shown} of {total} persons", { shown: number(shown), total: number(total) });
  else found.textContent = tn("{number} person", "{number} persons", total);
}

function type() {
  const url = new URL(location.href);
  if (search.value.trim()) url.searchParams.set("q", search.value.trim());
  else url.searchParams.delete("q");
  history.replaceState(null, "", url);
  if (domain) load({ anew: true });
}

search.value = new URL(location.href).searchParams.get("q") ?? "";
search.addEventListener("input", debounced(type));
byId("search-form").addEventListener("submit", (event) => { event.preventDefault(); type(); });
more.addEventListener("click", () => load({ anew: false }));

await chooseDomain(byId("domain"), (chosen) => {
  domain = chosen;
  keepDomain(domain);
  if (domain) return load({ anew: true });
  found.textContent = t("There is no domain yet.");
  return null;
}).catch((problem) => notify(problem.message, "bad"));
