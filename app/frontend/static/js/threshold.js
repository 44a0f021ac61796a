// What a domain's own gallery says about thresholds.

import { get, path } from "./api.js";
import { det, histograms, legendSign, share, widthIn } from "./charts.js";
import { announce, byId, debounced, el, notify } from "./dom.js";
import { chooseDomain } from "./domains.js";
import { number } from "./format.js";
import { t, tn } from "./i18n.js";
import { fillTable } from "./report.js";

const PARTS = [
  { name: "verification", positive: "fmr", negative: "fnmr", kind: "one" },
  { name: "identification", positive: "fpir", negative: "fnir", kind: "other" },
];

let domain = null;
let found = null;
let asking = null;

const DIGITS = 4;

function titleOf({ name }) {
  return name === "verification" ? t("Verification (1:1)") : tn("Identification (1:N) among {number} person", "Identification (1:N) among {number} persons", found.identification.persons);
}

// Measuring

async function measure() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  found = null;
  byId("found").hidden = true;
  if (!domain) return tell(t("There is no domain yet."), "warn");
  const threshold = byId("threshold").value.trim();
  tell(t("Comparing the templates of {domain} with each other…", { domain: domain.name }));
  try {
    found = await get(path("v1", "domains", domain.id ?? domain.name, "error-rates"), { threshold: threshold || null }, { signal });
  } catch (problem) {
    if (problem.name === "AbortError") return undefined;
    return tell(problem.message, "bad");
  }
  if (found.gallery.templates === 0) return tell(t("There is no face in this domain yet."), "warn");
  if (found.sample.persons < 2) tell(t("There is one person only: nobody whom a stranger could be taken for."), "warn");
  else tell("");
  byId("found").hidden = false;
  showNow();
  showChosen();
  announce(t("Measured."));
  return undefined;
}

function tell(text, tone = "") {
  const line = byId("state");
  line.textContent = text;
  line.className = `notice ${tone}`;
  line.hidden = !text;
}

// At the current threshold

function showNow() {
  const { gallery, sample } = found;
  byId("sample").textContent = [
    t("{templates} templates of {persons} persons, model {model}.", { templates: number(gallery.templates), persons: number(gallery.persons), model: found.model }),
    sample.complete ? t("Each was compared with all others.")
      : t("A part of it was looked at: {probes} templates, drawn at random, were compared with all of {templates} templates of {persons} persons.", {
        probes: number(sample.probes), templates: number(sample.templates), persons: number(sample.persons) }),
    sample.persons < gallery.persons ? t("In the whole gallery FPIR is higher.") : "",
  ].join(" ");
  fillRates(byId("now"), (part) => found[part.name].current, false);
  const { misnamed, ambiguous } = found.identification;
  byId("now").append(el("caption", { class: "faint" }, t(
    "Of the false negatives of identification, {misnamed} were named as somebody else, and {ambiguous} were ambiguous. Of the strangers, {strangers} were ambiguous.",
    { misnamed: number(misnamed), ambiguous: number(ambiguous.enrolled), strangers: number(ambiguous.unenrolled) })));
}

function fillRates(table, pointOf, chosen) {
  const heads = ["", [t("Threshold"), "number"], t("False positives: FMR, FPIR"), t("False negatives: FNMR, FNIR")];
  fillTable(table, heads, PARTS.map((part) => {
    const point = pointOf(part);
    if (!point) return [titleOf(part), "–", t("nothing to compare"), "–"];
    const warning = chosen && point[part.positive].rate > chosenRate() ? t("No threshold keeps to this rate: some templates of different persons are the same.") : null;
    return [titleOf(part), number(point.threshold, DIGITS), [rateText(part.positive, point[part.positive]), warning && el("p", { class: "wrong" }, warning)], rateText(part.negative, point[part.negative])];
  }));
}

/** The rate, the counts that it is of, and how sure that is. */
function rateText(name, rate) {
  if (!rate.trials) return el("span", {}, t("{name}: nothing to compare", { name: name.toUpperCase() }));
  const counts = t("{errors} of {trials}", { errors: number(rate.errors), trials: number(rate.trials) });
  const bounds = rate.errors ? t("{low} to {high}", { low: share(rate.low), high: share(rate.high) }) : t("below {high}", { high: share(rate.high) });
  return el("span", {}, el("strong", {}, `${name.toUpperCase()} ${share(rate.rate)}`), el("br"), el("small", {}, `${counts}; ${bounds}`));
}

// For a chosen rate

function chosenRate() {
  return Number(byId("rate").value) / 100;
}

/** The point of the curve with as many false positives as the rate allows, or the most below that. */
function chosenPoint(part) {
  const { curve } = found[part.name];
  if (!curve.length) return null;
  const allowed = chosenRate() * curve[0][part.positive].trials + 1e-9;
  let best = curve[0];
  for (const point of curve) if (point[part.positive].errors <= allowed) best = point;
  return best;
}

function showChosen() {
  if (!found) return;
  fillRates(byId("chosen"), chosenPoint, true);
  drawDistances();
  drawCurve();
}

// Charts

function drawDistances() {
  const { distances } = found;
  const chosen = chosenPoint(PARTS[1]);
  const marks = [{ at: found.threshold, kind: "" }, ...(chosen ? [{ at: chosen.threshold, kind: "chosen" }] : [])];
  const label = t("Histograms of genuine and impostor distances, with the current threshold at {threshold}", { threshold: number(found.threshold, DIGITS) });
  byId("distances").replaceChildren(
    histograms(widthIn(byId("distances")), distances, marks, { label, x: t("Cosine distance"), y: t("Share of the pairs") }),
    legend([
      [legendSign("area", "one"), t("genuine: one person")],
      [legendSign("area", "other"), t("impostor: two persons")],
      [legendSign("mark", ""), t("current threshold")],
      [legendSign("mark", "chosen"), t("for the chosen FPIR")],
    ]));
  const width = distances.upto / distances.genuine.length;
  const rows = distances.genuine.map((count, at) => [t("{from} to {to}", { from: number(at * width, DIGITS), to: number((at + 1) * width, DIGITS) }), number(count), number(distances.impostor[at])]);
  fillTable(byId("distances-table"), [t("Distance"), [t("Genuine pairs"), "number"], [t("Impostor pairs"), "number"]],
    rows.filter((_, at) => distances.genuine[at] || distances.impostor[at]));
}

function drawCurve() {
  const curves = PARTS.map((part) => {
    const at = (point) => [point[part.positive].rate ?? 0, point[part.negative].rate ?? 0];
    const { curve, current } = found[part.name];
    const chosen = chosenPoint(part);
    return { kind: part.kind, points: curve.map(at), marks: curve.length ? [at(current), at(chosen)] : [] };
  });
  byId("curve").replaceChildren(
    det(widthIn(byId("curve")), curves, { label: t("DET curves of verification and identification"), x: t("False positives: FMR, FPIR"), y: t("False negatives: FNMR, FNIR") }),
    legend([
      [legendSign("line", "one"), titleOf(PARTS[0])],
      [legendSign("line", "other"), titleOf(PARTS[1])],
      [legendSign("round"), t("current threshold")],
      [legendSign("square"), t("for the chosen rate")],
    ]));
  const rows = PARTS.flatMap((part) => found[part.name].curve.map((point) => [
    titleOf(part), number(point.threshold, DIGITS), share(point[part.positive].rate), share(point[part.negative].rate)]));
  fillTable(byId("curve-table"), [t("What"), [t("Threshold"), "number"], [t("False positives"), "number"], [t("False negatives"), "number"]], rows);
}

function legend(lines) {
  return el("ul", { class: "legend" }, lines.map(([sign, words]) => el("li", {}, sign, words)));
}

// What is asked

const redraw = debounced(showChosen, 60);

byId("slider").addEventListener("input", () => {
  byId("rate").value = Number((100 * 10 ** Number(byId("slider").value)).toPrecision(2));
  showSlider();
  redraw();
});
byId("rate").addEventListener("input", () => {
  if (!byId("rate").checkValidity() || !(chosenRate() > 0)) return;
  byId("slider").value = Math.log10(chosenRate());
  showSlider();
  redraw();
});

function showSlider() {
  byId("slider").setAttribute("aria-valuetext", share(chosenRate()));
}

let width = 0;
new ResizeObserver(() => {
  if (!found || byId("curve").clientWidth === width) return;
  width = byId("curve").clientWidth;
  drawDistances();
  drawCurve();
}).observe(byId("curve"));

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  measure();
});

showSlider();
await chooseDomain(byId("domain"), (chosen) => {
  domain = chosen;
  byId("measure").disabled = !chosen;
  measure();
}).catch((problem) => notify(problem.message, "bad"));
