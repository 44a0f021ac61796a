// Asks before somebody is erased: their name has to be typed.

import { el } from "../dom.js";
import { t, tn } from "../i18n.js";

/** Resolves to whether the person is to be erased. */
export function erasing(person) {
  return new Promise((resolve) => {
    const name = person.display_name;
    const go = el("button", { value: "yes", class: "danger", disabled: true }, t("Erase"));
    const typed = el("input", {
      id: "erase-name", autocomplete: "off", spellcheck: "false",
      oninput: () => { go.disabled = typed.value.normalize().trim() !== name; },
    });
    const dialog = el("dialog", { "aria-labelledby": "erase-title" },
      el("form", { method: "dialog", class: "stack" },
        el("h2", { id: "erase-title" }, t("Erase {name}?", { name })),
        el("p", {}, tn(
          "{number} face, and whatever else is known of them, is deleted everywhere. This cannot be undone.",
          "{number} faces, and whatever else is known of them, are deleted everywhere. This cannot be undone.",
          person.faces,
        )),
        el("div", { class: "field" }, el("label", { for: "erase-name" }, t("To go on, type: {name}", { name })), typed),
        el("div", { class: "row end" }, el("button", { value: "no", formnovalidate: true }, t("Cancel")), go)));
    // Enter would press the first button, which is to cancel.
    typed.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      if (!go.disabled) dialog.close("yes");
    });
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
    typed.focus();
  });
}
