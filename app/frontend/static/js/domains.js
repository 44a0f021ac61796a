// Which domain a page is about: the address says so, else what was chosen last, else the first there is.

import { pages } from "./api.js";
import { el } from "./dom.js";

const REMEMBERED = "facedex.domain";

/**
 * Fill a `<select>` with the domains within the key's reach. `onChange(domain)` is called once at first, with null where there is none,
 * and with each choice: the API's `{ id, name, … }`, or `{ id: null, name }` of one that is a dataset only, which no list has.
 * The address keeps the choice, as `?domain=`.
 */
export async function chooseDomain(select, onChange) {
  const domains = new Map();
  for await (const items of pages("/v1/domains", { limit: 500 })) for (const item of items) domains.set(item.name, item);
  const asked = new URL(location.href).searchParams.get("domain");
  if (asked && !domains.has(asked)) domains.set(asked, { id: null, name: asked });
  const names = [...domains.keys()];
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  const chosen = asked ?? names.find((name) => name === remembered()) ?? names[0] ?? null;
  if (chosen !== null) select.value = chosen;
  select.disabled = names.length === 0;
  select.addEventListener("change", () => {
    remember(select.value);
    const url = new URL(location.href);
    url.searchParams.set("domain", select.value);
    history.replaceState(null, "", url);
    onChange(domains.get(select.value));
  });
  await onChange(domains.get(chosen) ?? null);
}

function remembered() {
  try { return localStorage.getItem(REMEMBERED); } catch { return null; }
}

function remember(name) {
  try { localStorage.setItem(REMEMBERED, name); } catch { /* a browser that keeps nothing */ }
}
