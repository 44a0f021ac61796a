// The page that recognises pictures: takes them in, works through them in turn, shows each as it comes.

import { announce, byId, notify } from "../dom.js";
import { chooseDomain } from "../domains.js";
import { takePictures } from "../files.js";
import { t, tn } from "../i18n.js";
import { Picture } from "./picture.js";

// As many at once as keep the pool busy while another one uploads.
const AT_ONCE = 2;

const main = byId("main");
const settings = {
  max_bytes: Number(byId("recognise").dataset.maxBytes),
  may: new Set(byId("recognise").dataset.may.split(" ")),
};
const list = byId("pictures");
const waiting = [];
let working = 0;
let domain = null;

function add(files) {
  if (domain === null) {
    announce(t("There is no domain yet."));
    return;
  }
  for (const file of files) {
    const picture = new Picture(file, domain, settings, { onAgain: enqueue, onGone });
    list.append(picture.element);
    if (picture.isUsable) enqueue(picture);
  }
  announce(tn("{number} picture added", "{number} pictures added", files.length));
  refresh();
}

function enqueue(picture) {
  waiting.push(picture);
  picture.wait();
  next();
}

async function next() {
  while (working < AT_ONCE && waiting.length) {
    const picture = waiting.shift();
    if (picture.isGone) continue;
    working += 1;
    picture.recognise().finally(() => { working -= 1; refresh(); next(); });
  }
  refresh();
}

function onGone() {
  refresh();
  byId("choose").focus();
}

function refresh() {
  const left = waiting.filter((picture) => !picture.isGone).length + working;
  byId("queue").hidden = list.children.length === 0;
  byId("queue-text").textContent = left
    ? tn("{number} picture to go", "{number} pictures to go", left)
    : tn("{number} picture", "{number} pictures", list.children.length);
  main.setAttribute("aria-busy", String(left > 0));
}

byId("clear").addEventListener("click", () => {
  waiting.length = 0;
  for (const element of [...list.children]) element.dispatchEvent(new CustomEvent("remove"));
  refresh();
  byId("choose").focus();
});

const known = chooseDomain(byId("domain"), (chosen) => {
  domain = chosen;
  byId("no-domain").hidden = chosen !== null;
  for (const button of document.querySelectorAll("#drop button")) button.disabled = chosen === null;
});
// At once: what is dropped before the domains are here waits for them, where it would take the browser away from the page.
takePictures(byId("drop"), (files) => known.then(
  () => add(files),
  () => notify(t("The domains cannot be loaded, so no picture is taken in. Load the page again."), "bad"),
));
try {
  await known;
  byId("recognise").dataset.ready = "";
} catch (problem) {
  notify(problem.message, "bad");
}
