// Charts as SVG: two histograms over one axis, and DET curves on logarithmic axes. A table beside each says the same.

import { svg } from "./dom.js";
import { number } from "./format.js";
import { locale } from "./i18n.js";

const HEIGHT = 320;
const MARGIN = { left: 64, right: 20, top: 16, bottom: 44 };
const INNER_HEIGHT = HEIGHT - MARGIN.top - MARGIN.bottom;
const WIDTHS = [240, 960];
const ROOM_FOR_A_TICK = 64;

/** How wide a chart in this element is to be: drawn at its own size, its text is as large as the page's. */
export function widthIn(element) {
  return Math.min(WIDTHS[1], Math.max(WIDTHS[0], Math.floor(element.clientWidth)));
}

/** A share as percent, with as many digits as it takes to see it. */
export function share(value) {
  if (value === null || value === undefined) return "–";
  const percent = value * 100;
  const digits = percent === 0 || percent >= 10 ? 1 : Math.min(6, 1 - Math.floor(Math.log10(percent)));
  return new Intl.NumberFormat(locale(), { style: "percent", maximumFractionDigits: digits }).format(value);
}

function chart(width, label, ...parts) {
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, ...parts);
}

function text(x, y, anchor, content, more = {}) {
  return svg("text", { x, y, "text-anchor": anchor, ...more }, content);
}

function frame(inner, xLabel, yLabel) {
  const middle = MARGIN.top + INNER_HEIGHT / 2;
  return [
    svg("path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}v${INNER_HEIGHT}h${inner}` }),
    text(MARGIN.left + inner / 2, HEIGHT - 6, "middle", xLabel),
    text(14, middle, "middle", yLabel, { transform: `rotate(-90 14 ${middle})` }),
  ];
}

/**
 * `{ upto, genuine, impostor }`, counts in equal bins from 0 to `upto`; `marks` are `{ at, label, kind }`.
 */
export function histograms(width, { upto, genuine, impostor }, marks, words) {
  const inner = width - MARGIN.left - MARGIN.right;
  const shares = [genuine, impostor].map((counts) => {
    const total = counts.reduce((sum, count) => sum + count, 0);
    return counts.map((count) => (total ? count / total : 0));
  });
  const most = Math.max(...shares.flat(), 1e-9);
  const x = (distance) => MARGIN.left + (distance / upto) * inner;
  const y = (value) => MARGIN.top + INNER_HEIGHT * (1 - value / most);
  const outline = (values) => {
    const stairs = values.map((value, at) => `L${x((at / values.length) * upto).toFixed(1)} ${y(value).toFixed(1)}H${x(((at + 1) / values.length) * upto).toFixed(1)}`);
    return `M${x(0)} ${y(0)}${stairs.join("")}V${y(0)}Z`;
  };
  const steps = Math.min(5, Math.max(2, Math.floor(inner / ROOM_FOR_A_TICK)));
  const ticks = Array.from({ length: steps + 1 }, (_, at) => (at / steps) * upto);
  return chart(width, words.label,
    [0.5, 1].map((part) => svg("path", { class: "grid-line", d: `M${MARGIN.left} ${y(part * most)}h${inner}` })),
    [0, 0.5, 1].map((part) => text(MARGIN.left - 6, y(part * most) + 4, "end", share(part * most))),
    ticks.map((at) => text(x(at), HEIGHT - 26, "middle", number(at, upto < 0.5 ? 3 : 2))),
    svg("path", { class: "fill other", d: outline(shares[1]) }),
    svg("path", { class: "fill one", d: outline(shares[0]) }),
    marks.filter(({ at }) => at <= upto).map(({ at, kind }) => svg("path", { class: `mark ${kind}`, d: `M${x(at)} ${MARGIN.top}v${INNER_HEIGHT}` })),
    frame(inner, words.x, words.y));
}

/**
 * `curves` are `{ kind, points: [[falsePositive, falseNegative], …], marks: [[…], …] }`; rates of 0 stand at the edges.
 */
export function det(width, curves, words) {
  const inner = width - MARGIN.left - MARGIN.right;
  const rates = curves.flatMap(({ points }) => points.flat()).filter((rate) => rate > 0);
  // A decade below the least rate stands for none at all.
  const lowest = 10 ** (Math.floor(Math.log10(Math.min(...rates, 0.1))) - 1);
  const decades = Math.round(-Math.log10(lowest));
  const place = (rate) => (Math.log10(Math.max(rate, lowest)) + decades) / decades;
  const x = (rate) => MARGIN.left + place(rate) * inner;
  const y = (rate) => MARGIN.top + INNER_HEIGHT * (1 - place(rate));
  const ticks = Array.from({ length: decades + 1 }, (_, at) => 10 ** (at - decades));
  const every = Math.ceil(((decades + 1) * ROOM_FOR_A_TICK) / (inner + ROOM_FOR_A_TICK));
  return chart(width, words.label,
    ticks.map((rate, at) => [
      svg("path", { class: "grid-line", d: `M${x(rate)} ${MARGIN.top}v${INNER_HEIGHT}M${MARGIN.left} ${y(rate)}h${inner}` }),
      (decades - at) % every === 0 || at === 0 ? text(x(rate), HEIGHT - 26, "middle", at ? share(rate) : "0") : null,
      text(MARGIN.left - 6, y(rate) + 4, "end", at ? share(rate) : "0"),
    ]).flat(),
    curves.flatMap(({ kind, points, marks }) => [
      points.length > 0 && svg("polyline", { class: `line ${kind}`, points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }),
      ...marks.map(([a, b], at) => (at === 0
        ? svg("circle", { class: `dot ${kind}`, cx: x(a), cy: y(b), r: 6 })
        : svg("rect", { class: `dot ${kind}`, x: x(a) - 6, y: y(b) - 6, width: 12, height: 12 }))),
    ]),
    frame(inner, words.x, words.y));
}

/** Lines of a legend: `[drawn, words]`. */
export function legendSign(shape, kind) {
  const drawn = {
    area: () => svg("rect", { class: `fill ${kind}`, x: 1, y: 1, width: 26, height: 10 }),
    line: () => svg("path", { class: `line ${kind}`, d: "M0 6h28" }),
    mark: () => svg("path", { class: `mark ${kind}`, d: "M14 0v12" }),
    round: () => svg("circle", { class: "dot", cx: 14, cy: 6, r: 5 }),
    square: () => svg("rect", { class: "dot", x: 9, y: 1, width: 10, height: 10 }),
  }[shape]();
  return svg("svg", { class: "chart-sign chart", viewBox: "0 0 28 12", "aria-hidden": "true" }, drawn);
}
