// "Not this person", and "enrol this face as…": dialogs, and the calls behind them. The picture is recognised anew after either.

import { ask, path, post, Problem } from "../api.js";
import { combobox } from "../combobox.js";
import { el, notify } from "../dom.js";
import { t } from "../i18n.js";
import { suggestPersons } from "../persons.js";
import { cutOut } from "./cutting.js";

// So much of what is around a face that a detector finds it again.
const MARGIN = 0.8;

/** Say that face `index` of the picture is not this person's, and maybe whose it is. */
export function notThisPerson(picture, index, person) {
  asking(picture, {
    title: t("Not {name}?", { name: person.name }),
    text: t("This face, and faces that are more like it than like {name}, will not be taken for {name} any more.", { name: person.name }),
    label: t("Who is it? (may be left empty)"),
    action: t("Not this person"),
    required: false,
    async act(chosen) {
      const form = new FormData();
      form.append("file", picture.file, picture.file.name || "picture");
      form.append("face", String(index));
      if (chosen) form.append("actual", chosen.value ?? chosen.text);
      await ask("POST", path("v1", "domains", domainOf(picture), "persons", person.id, "rejections"), { form });
      notify(t("Noted: this is not {name}.", { name: person.name }));
      picture.onAgain(picture);
    },
  });
}

/** Enrol one face as somebody, who may be new. */
export function enrolAs(picture, answer, face) {
  asking(picture, {
    title: t("Enrol this face"),
    text: t("The next picture of this person will be recognised by it as well."),
    label: t("Name"),
    action: t("Enrol"),
    required: true,
    async act(chosen) {
      const alone = answer.faces.length === 1;
      const file = alone ? picture.file : await cutOut(picture.image, answer.image, face.box, { margin: MARGIN });
      const form = new FormData();
      form.append("file", file, file.name || "picture");
      const domain = domainOf(picture);
      await ask("POST", path("v1", "domains", domain, "persons", await personOf(domain, chosen), "faces"), { form });
      notify(t("Enrolled as {name}.", { name: chosen.text }));
      picture.onAgain(picture);
    },
  });
}

const domainOf = (picture) => picture.domain.id ?? picture.domain.name;

/** What stands for the person in a path; somebody new whose name cannot stand in one is made first. */
async function personOf(domain, { value, text }) {
  if (value) return value;
  if (!text.includes("/") && !/^\.+$/.test(text)) return text;
  const made = await post(path("v1", "domains", domain, "persons"), { label: text });
  return made.id;
}

function asking(picture, { title, text, label, action, required, act }) {
  const wrong = el("p", { class: "notice bad", role: "alert", hidden: true });
  const input = el("input", { id: "correct-name", type: "text", maxlength: 200, required });
  const submit = el("button", { type: "submit", class: "primary" }, action);
  const form = el("form", { class: "stack" },
    el("h2", { id: "correct-title" }, title), el("p", {}, text), wrong,
    el("div", { class: "field" }, el("label", { for: "correct-name" }, label), el("div", { class: "combobox" }, input)),
    el("div", { class: "row end" }, el("button", { type: "button", onclick: () => dialog.close() }, t("Cancel")), submit));
  const dialog = el("dialog", { "aria-labelledby": "correct-title" }, form);
  const suggests = picture.settings.may.has("suggest");
  const field = combobox(input, suggests ? suggestPersons(domainOf(picture)) : async () => []);
  const fail = (message) => { wrong.textContent = message; wrong.hidden = false; };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const typed = input.value.trim();
    const chosen = field.chosen ?? (typed ? { value: null, text: typed } : null);
    if (required && !chosen) {
      fail(t("Enter a name."));
      return;
    }
    wrong.hidden = true;
    submit.disabled = true;
    try {
      await act(chosen);
      dialog.close();
      picture.element.focus();  // the button that was pressed goes with the old answer
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      fail(problem.message);
    } finally {
      submit.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
}
