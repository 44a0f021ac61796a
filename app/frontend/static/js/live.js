// Enrol or verify somebody in front of the camera.

import { ask, get, path, post } from "./api.js";
import { Camera } from "./camera.js";
import { announce, byId, debounced, el, notify } from "./dom.js";
import { chooseDomain } from "./domains.js";
import { number } from "./format.js";
import { FrameStream } from "./frames.js";
import { t, tn } from "./i18n.js";
import { CLOSINGS, inWords, REASONS } from "./session_words.js";

const FRAME_EVERY_MS = 200;
const SAME_WORDS_MS = 1500;

const view = byId("view");
const camera = new Camera(byId("video"), Number(view.dataset.maxBytes));
let domain = null;
let running = null; // { session, stream, timer, endsAt }
let attempts = 0; // whoever waits for something and finds another number has been stopped meanwhile

// What was chosen

function kind() {
  return byId("session").elements.kind.value;
}

function showKind() {
  const hint = byId("person-hint");
  hint.textContent = hint.dataset[kind()];
}

async function suggest() {
  const list = byId("persons");
  if (!("offered" in list.dataset) || !domain) return;
  const asked = byId("person").value.trim();
  try {
    const page = await get(path("v1", "domains", domain.id ?? domain.name, "persons"), { q: asked, limit: 20 });
    list.replaceChildren(...page.items.map((person) => el("option", { value: person.label }, person.display_name)));
  } catch { /* nothing to suggest: the label can be written all the same */ }
}

async function listCameras() {
  const cameras = await camera.list();
  const select = byId("camera");
  const chosen = select.value;
  select.replaceChildren(...cameras.map((one, at) => el("option", { value: one.id }, one.name || t("Camera {number}", { number: at + 1 }))));
  if (cameras.some((one) => one.id === chosen)) select.value = chosen;
  byId("cameras").hidden = cameras.length < 2;
}

// A session

async function start() {
  const mine = ++attempts;
  byId("result").hidden = true;
  setBusy(true);
  say(t("Waiting for the camera…"));
  try {
    await startCamera();
  } catch (error) {
    return mine === attempts ? fail(error.message) : undefined;
  }
  if (mine !== attempts) return byId("start").hidden ? undefined : end(); // unless the camera is a later attempt's
  say(t("Waiting for the service…"));
  let session;
  try {
    const where = path("v1", "domains", domain.id ?? domain.name, "sessions");
    session = await post(where, { kind: kind(), person: byId("person").value.trim() });
  } catch (problem) {
    return mine === attempts ? fail(problem.message) : undefined;
  }
  if (mine !== attempts) return forget(session);
  if (!camera.on) { // taken away, or the page was left meanwhile
    forget(session);
    return fail(t("The camera was taken away."));
  }
  running = { session, endsAt: Date.now() + session.limits.expires_in_s * 1000, standing: null };
  open();
}

async function startCamera() {
  // The choice is offered after the first time only: before, cameras have no names.
  await camera.start(byId("cameras").hidden ? null : byId("camera").value, () => cameraGone());
  await listCameras();
  showCamera(true);
  view.scrollIntoView({ block: "nearest" });
  view.classList.toggle("mirrored", camera.facesUser);
}

function showCamera(on) {
  byId("video").hidden = !on;
  byId("empty").hidden = on;
  byId("overlay").toggleAttribute("hidden", !on); // what is SVG has no property of that name
  byId("box").toggleAttribute("hidden", true);
}

function open() {
  const { session } = running;
  running.stream = new FrameStream(session, {
    message: (told) => hear(told),
    lost: () => say(t("The connection was lost; connecting again…"), "warn"),
    closed: (code) => closed(code),
  });
  running.timer = setInterval(sendFrame, FRAME_EVERY_MS);
}

async function sendFrame() {
  if (!running) return;
  showTimeLeft();
  if (!running.stream.wants || running.taking) return;
  running.taking = true;
  const mine = running;
  try {
    const frame = await camera.frame();
    if (frame && mine === running) {
      mine.size = frame;
      mine.stream.send(frame.blob);
    }
  } finally {
    mine.taking = false;
  }
}

function hear(told) {
  if (!running) return;
  if (told.type === "error") say(told.detail, "warn");
  if (told.type === "ready") {
    running.limits = told.limits;
    running.endsAt = Date.now() + told.expires_in_s * 1000;
    say(t("Look into the camera."));
  }
  if ("frames_left" in told) showStanding(told);
  if (told.type === "frame" && !told.dropped) showFace(told);
  if (told.type === "frame" && !told.result) guide(told);
  if (told.result) decided(told.result);
}

/** Where its face is in the newest frame that was looked at, and whether it counts. */
function showFace(told) {
  const box = byId("box");
  box.toggleAttribute("hidden", !told.face || !running.size);
  if (!told.face || !running.size) return;
  const { width, height } = running.size;
  byId("overlay").setAttribute("viewBox", `0 0 ${width} ${height}`);
  const { x, y, w, h } = told.face.box;
  for (const [name, value] of Object.entries({ x, y, width: w, height: h })) box.setAttribute(name, value);
  box.setAttribute("class", told.accepted ? "box good" : "box");
}

function guide(told) {
  if (told.accepted) return say(t("Good. Go on looking into the camera."), "good", SAME_WORDS_MS);
  const reason = told.reasons[0];
  // What a newer frame has taken the place of is as it should be.
  if (told.dropped && !(reason in REASONS)) return undefined;
  return say(REASONS[reason] ?? told.hint, "warn", SAME_WORDS_MS);
}

function showStanding(told) {
  const { progress } = told;
  byId("progress").hidden = false;
  byId("frames-left").textContent = number(told.frames_left);
  const wanted = progress.wanted ?? running.limits?.min_frames ?? 1;
  const have = progress.templates ?? progress.good_frames ?? 0;
  byId("done").max = wanted;
  byId("done").value = Math.min(have, wanted);
  byId("progress-text").textContent = "templates" in progress
    ? tn("{have} of {number} picture taken", "{have} of {number} pictures taken", wanted, { have: number(have) })
    : tn("{number} good frame", "{number} good frames", have);
  const enough = running.session.kind === "enrol" && have >= (running.limits?.min_templates ?? Infinity);
  byId("finish").hidden = !enough;
}

function showTimeLeft() {
  const seconds = Math.max(0, Math.ceil((running.endsAt - Date.now()) / 1000));
  byId("time-left").textContent = tn("{number} second", "{number} seconds", seconds);
}

// How it ends

async function closed(code) {
  const { session } = running;
  try {
    const now = await get(path("v1", "sessions", session.id));
    if (now.state === "expired") return fail(CLOSINGS[4003]); // before its stream was open, no code says so
    if (now.result && now.state !== "cancelled") return decided({ ...now.result, person: now.person });
  } catch { /* its own words say enough */ }
  return fail(CLOSINGS[code] ?? t("The connection was lost for good. Start again."));
}

function decided(result) {
  const { session } = running;
  end();
  const { tone, title, why, facts } = inWords(result, session.person);
  show(tone, title, why, facts);
}

function show(tone, title, why, facts = []) {
  const box = byId("result");
  box.replaceChildren(
    el("div", { class: `notice ${tone}` }, el("h3", {}, title), why && el("p", {}, why)),
    el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
  );
  box.hidden = false;
  box.focus({ preventScroll: true });
  announce([title, why].filter(Boolean).join(" "));
}

function fail(message) {
  end();
  show("bad", message);
}

function end() {
  attempts += 1;
  if (running) {
    clearInterval(running.timer);
    running.stream?.close();
    running = null;
  }
  camera.stop();
  showCamera(false);
  byId("progress").hidden = true;
  say("");
  setBusy(false);
}

function setBusy(busy) {
  byId("start").hidden = busy;
  byId("stop").hidden = !busy;
  byId("finish").hidden = true;
  for (const field of byId("session").querySelectorAll("select, input")) field.disabled = busy;
}

async function stop() {
  if (!running) return fail(t("Stopped."));
  if (running.stream.command("cancel")) return undefined; // the result comes
  const { session } = running;
  decided({ outcome: "cancelled" });
  return forget(session);
}

async function forget(session) {
  try {
    await ask("DELETE", path("v1", "sessions", session.id));
  } catch (problem) {
    notify(problem.message, "bad");
  }
}

function cameraGone() {
  if (running) fail(t("The camera was taken away."));
}

/** The camera goes off whenever nobody looks at the page; the session is gone on with afterwards, if its time is not over. */
async function seen() {
  if (document.hidden) {
    running?.stream?.close();
    clearInterval(running?.timer);
    camera.stop();
    return;
  }
  if (!running) return;
  try {
    await startCamera();
    open();
  } catch (error) {
    fail(error.message);
  }
}

let said = { text: "", at: 0 };

/** Guidance; what changes faster than it can be read stays for a moment. */
function say(text, tone = "", hold_ms = 0) {
  const now = Date.now();
  if (text === said.text || (hold_ms && now - said.at < hold_ms && said.held)) return;
  said = { text, at: now, held: hold_ms > 0 };
  const line = byId("guidance");
  line.textContent = text;
  line.className = `guidance ${tone}`;
}

byId("session").addEventListener("submit", (event) => {
  event.preventDefault();
  if (domain && !running) start();
});
byId("session").addEventListener("change", showKind);
byId("person").addEventListener("input", debounced(suggest));
byId("person").addEventListener("focus", suggest);
byId("stop").addEventListener("click", stop);
byId("finish").addEventListener("click", () => running?.stream.command("finish"));
document.addEventListener("visibilitychange", seen);
addEventListener("pagehide", () => end());

showKind();
await chooseDomain(byId("domain"), (chosen) => {
  domain = chosen;
  byId("persons").replaceChildren();
  byId("start").disabled = !domain;
  if (!domain) say(t("There is no domain yet."), "warn");
}).catch((problem) => notify(problem.message, "bad"));
