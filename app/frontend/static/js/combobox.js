// A text field with suggestions (the pattern of the ARIA Authoring Practices Guide: editable combobox with list autocomplete).

import { debounced, el } from "./dom.js";
import { t, tn } from "./i18n.js";

let count = 0;

/**
 * Give an `<input>` that stands in a `.combobox` suggestions. `suggest(text)` resolves to `[{ value, text, detail }]`, best first;
 * what is chosen stands in the field as `text`, and is `field.chosen` until somebody types on.
 */
export function combobox(input, suggest, { onChoose = () => {} } = {}) {
  count += 1;
  const list = el("ul", { role: "listbox", id: `suggestions-${count}`, hidden: true, "aria-label": t("Suggestions") });
  const status = el("div", { class: "for-readers", role: "status" });
  input.closest(".combobox").append(list, status);
  const field = { input, chosen: null };
  let shown = [];
  let active = -1;
  let asked = 0;

  for (const [name, value] of Object.entries({
    role: "combobox", autocomplete: "off", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id,
  })) input.setAttribute(name, value);

  const ask = debounced(async () => {
    const text = input.value.trim();
    asked += 1;
    const mine = asked;
    let found = [];
    try { found = text ? await suggest(text) : []; } catch { /* no suggestions: the text itself will do */ }
    if (mine === asked && document.activeElement === input) show(found);
  });

  function show(found) {
    shown = found;
    active = -1;
    list.replaceChildren(...found.map((item, place) => el("li", {
      role: "option", id: `${list.id}-${place}`, "aria-selected": "false",
      onmousedown: (event) => { event.preventDefault(); choose(place); },
    }, item.text, item.detail ? el("small", {}, ` ${item.detail}`) : null)));
    setOpen(found.length > 0);
    status.textContent = found.length ? tn("{number} suggestion", "{number} suggestions", found.length) : "";
  }

  function setOpen(open) {
    list.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    if (!open) input.removeAttribute("aria-activedescendant");
  }

  function activate(place) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = place;
    const option = list.children[place];
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option.id);
  }

  function choose(place) {
    field.chosen = shown[place];
    input.value = field.chosen.text;
    setOpen(false);
    onChoose(field.chosen);
  }

  input.addEventListener("input", () => { field.chosen = null; ask(); });
  input.addEventListener("blur", () => setOpen(false));
  input.addEventListener("keydown", (event) => {
    const open = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) { ask(); return; }
      const step = event.key === "ArrowDown" ? 1 : -1;
      activate((active + step + shown.length + (active < 0 && step < 0 ? 1 : 0)) % shown.length);
    } else if (event.key === "Enter" && open && active >= 0) {
      event.preventDefault();
      choose(active);
    } else if (event.key === "Escape" && open) {
      event.preventDefault();  // the dialog around it stays
      event.stopPropagation();
      setOpen(false);
    }
  });
  return field;
}
