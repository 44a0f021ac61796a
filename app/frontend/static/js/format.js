// Numbers, times and sizes as the reader writes them.

import { locale, t } from "./i18n.js";

const made = new Map();

function formatter(kind, options) {
  const key = `${kind.name}${JSON.stringify(options)}`;
  if (!made.has(key)) made.set(key, new kind(locale(), options));
  return made.get(key);
}

export function number(value, digits = 0) {
  return formatter(Intl.NumberFormat, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

/** Of what the API calls percent: 0 to 100. Never rounded to a certainty that is none. */
export function percent(value, digits = 1) {
  const least = 10 ** -digits;
  const written = (share) => formatter(Intl.NumberFormat, { style: "percent", maximumFractionDigits: digits }).format(share / 100);
  if (value < least) return `< ${written(least)}`;
  return written(value < 100 ? Math.min(value, 100 - least) : value);
}

export function milliseconds(value) {
  const unit = value < 1000 ? "millisecond" : "second";
  const digits = value < 10 || value >= 1000 ? 1 : 0;
  return formatter(Intl.NumberFormat, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: digits }).format(
    value < 1000 ? value : value / 1000,
  );
}

export function bytes(value) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  return formatter(Intl.NumberFormat, {
    style: "unit", unit: units[step], unitDisplay: "short", maximumFractionDigits: step ? 1 : 0,
  }).format(value / 1000 ** step);
}

export function moment(value) {
  return formatter(Intl.DateTimeFormat, { dateStyle: "medium", timeStyle: "short" }).format(new Date(value));
}

export function day(value) {
  return formatter(Intl.DateTimeFormat, { dateStyle: "medium" }).format(new Date(value));
}

/** "3 minutes ago". */
export function ago(value) {
  const seconds = (new Date(value) - Date.now()) / 1000;
  const steps = [["day", 86400], ["hour", 3600], ["minute", 60]];
  for (const [unit, length] of steps) {
    if (Math.abs(seconds) >= length) {
      return formatter(Intl.RelativeTimeFormat, { numeric: "auto" }).format(Math.trunc(seconds / length), unit);
    }
  }
  return t("just now");
}

/** Write every `<time datetime>` and `<data class="number" value>` below `root` in the reader's way. */
export function localise(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const value = element.getAttribute("datetime");
    if (Number.isNaN(Date.parse(value))) continue;
    element.textContent = element.dataset.style === "day" ? day(value) : moment(value);
    element.title = value;
  }
  for (const element of root.querySelectorAll("data.number")) {
    element.textContent = number(Number(element.value), Number(element.dataset.digits ?? 0));
  }
}
