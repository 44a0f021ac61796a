// One picture: sent, waited for, shown with boxes on it.

import { ask, Problem } from "../api.js";
import { announce, el } from "../dom.js";
import { whyRefused } from "../files.js";
import { percent } from "../format.js";
import { t, tn } from "../i18n.js";
import { faceCard, named, signOf, wordFor } from "./faces.js";
import { howAnswered } from "./timings.js";

let count = 0;

export class Picture {
  /** `domain` is the one that is chosen now; `onAgain(picture)` puts it into the queue; `onGone()` hears that it was taken away. */
  constructor(file, domain, settings, { onAgain, onGone }) {
    count += 1;
    this.file = file;
    this.domain = domain;
    this.settings = settings;
    this.onAgain = onAgain;
    this.isGone = false;
    this.giveUp = new AbortController();
    this.url = URL.createObjectURL(file);
    this.image = el("img", { src: this.url, alt: t("The picture {name}", { name: file.name }), decoding: "async" });
    this.image.addEventListener("error", () => { this.frame.hidden = true; });
    this.boxes = el("div", { class: "boxes" });
    this.frame = el("div", { class: "frame" }, this.image, this.boxes);
    this.status = el("div", { class: "status" });
    this.found = el("div", { class: "found" });
    const remove = el("button", {
      type: "button", class: "quiet small", "aria-label": t("Remove {name}", { name: file.name }), onclick: () => { this.remove(); onGone(); },
    }, "×");
    this.element = el("li", { class: "card picture", tabindex: -1, "aria-labelledby": `picture-${count}` },
      el("div", { class: "row" }, el("h2", { class: "grow", id: `picture-${count}` }, file.name || t("Pasted picture")), remove),
      this.status,
      el("div", { class: "shown" }, this.frame, this.found));
    this.element.addEventListener("remove", () => this.remove());
    const refused = whyRefused(file, settings.max_bytes);
    this.isUsable = refused === null;
    if (refused) this.fail(refused, { again: false });
  }

  remove() {
    this.isGone = true;
    this.giveUp.abort();
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }

  wait() {
    this.say(t("Waiting for its turn…"));
  }

  async recognise() {
    const progress = el("progress", { max: 1, value: 0, "aria-label": t("Uploading") });
    const word = el("span", {}, t("Uploading…"));
    this.status.replaceChildren(word, progress);
    const started_ms = performance.now();
    let sent_ms = started_ms;
    const form = new FormData();
    form.append("domain", this.domain.name);
    form.append("file", this.file, this.file.name || "picture");
    try {
      const answer = await ask("POST", "/recognize", {
        form,
        signal: this.giveUp.signal,
        onUpload: (fraction) => {
          progress.value = fraction;
          if (fraction < 1) return;
          sent_ms = performance.now();
          progress.removeAttribute("value");  // how long the rest takes, nobody knows
          progress.setAttribute("aria-label", t("Looking for faces"));
          word.textContent = t("Looking for faces…");
        },
      });
      this.show(answer, { upload_ms: sent_ms - started_ms, total_ms: performance.now() - started_ms });
    } catch (problem) {
      if (this.isGone || problem.name === "AbortError") return;
      if (!(problem instanceof Problem)) throw problem;
      this.fail(problem.message, { again: problem.status === 0 || problem.status === 429 || problem.status >= 500 });
    }
  }

  say(text) {
    this.status.replaceChildren(text);
  }

  fail(text, { again }) {
    const retry = again ? el("button", { type: "button", class: "small", onclick: () => this.onAgain(this) }, t("Try again")) : null;
    this.status.replaceChildren(el("div", { class: "notice bad row", role: "alert" }, el("span", { class: "grow" }, text), retry));
  }

  show(answer, times) {
    const { faces } = answer;
    const summary = faces.length ? tn("{number} face", "{number} faces", faces.length) : t("No face was found on this picture.");
    const told = faces.map((face) => `${wordFor(face)}: ${named(face)}`).join("; ");
    this.say(summary);
    announce(`${this.file.name}: ${summary} ${told}`);
    const cards = faces.map((face, index) => faceCard(this, answer, face, index));
    this.found.replaceChildren(el("ol", { class: "plain faces" }, ...cards), howAnswered(answer, times));
    this.boxes.replaceChildren(...faces.map((face, index) => this.box(answer, face, cards[index], index)));
  }

  /** A button over the face, at the place of the picture's own pixels: the answer is in those of the picture as it is shown. */
  box(answer, face, card, index) {
    const { width, height } = answer.image;
    const label = { match: () => `${named(face)} ${percent(face.candidates[0].confidence, 0)}`, ambiguous: () => named(face), unknown: () => wordFor(face) }[face.decision]();
    const box = el("button", {
      type: "button", class: `box ${face.decision}`, "aria-label": t("Face {number}: {name}", { number: index + 1, name: `${wordFor(face)}, ${label}` }),
      onclick: () => { card.scrollIntoView({ block: "nearest", behavior: "auto" }); card.focus(); },
    }, el("span", { class: "label" }, `${signOf(face)} ${label}`));
    const at = { left: face.box.x / width, top: face.box.y / height, width: face.box.w / width, height: face.box.h / height };
    for (const [side, share] of Object.entries(at)) box.style[side] = `${100 * share}%`;
    const toLeft = at.left + at.width / 2 > 0.5;  // its name has the room to the farther side of the picture
    box.classList.toggle("to-left", toLeft);
    box.style.setProperty("--room", 100 * (toLeft ? at.left + at.width : 1 - at.left));
    for (const [event, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) {
      box.addEventListener(event, () => card.classList.toggle("lit", on));
    }
    card.addEventListener("focusin", () => box.classList.add("lit"));
    card.addEventListener("focusout", () => box.classList.remove("lit"));
    card.addEventListener("pointerenter", () => box.classList.add("lit"));
    card.addEventListener("pointerleave", () => box.classList.remove("lit"));
    return box;
  }
}
