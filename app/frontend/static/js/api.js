// The API as the pages call it: the same addresses as every other client, with the session's cookie and the page's token.

import { t } from "./i18n.js";
import { notify } from "./dom.js";

const UNSAFE = new Set(["POST", "PUT", "PATCH", "DELETE"]);
const AGAIN = new Set([429, 503]);
const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";

/** An answer that is none: RFC 9457's members, `retryAfter_s` where the service names it, and `message` in words. */
export class Problem extends Error {
  constructor(status, body, retryAfter_s = null) {
    super(inWords(status, body, retryAfter_s));
    this.name = "Problem";
    this.status = status;
    this.code = body?.code ?? "";
    this.title = body?.title ?? "";
    this.detail = body?.detail ?? "";
    this.requestId = body?.request_id ?? "";
    this.body = body ?? {};
    this.retryAfter_s = retryAfter_s;
  }
}

function inWords(status, body, retryAfter_s) {
  if (status === 0) return t("The service cannot be reached. Is the network there?");
  if (status === 401) return t("Your session has ended.");
  const said = body?.detail || body?.title || t("The service answered with the status {status}.", { status });
  return AGAIN.has(status) && retryAfter_s ? `${said} ${t("Try again in {seconds} s.", { seconds: retryAfter_s })}` : said;
}

/**
 * The path of what belongs to a domain or a person: `path("v1", "domains", domain.id ?? domain.name, "persons", person.id)`.
 * Names with a slash, or of dots alone, cannot stand in a path, even encoded: take ids wherever there are some.
 */
export function path(...names) {
  return `/${names.map(encodeURIComponent).join("/")}`;
}

/** One text that no other request has: a request that is sent again with it is done once. */
export function idempotencyKey() {
  // randomUUID exists in secure contexts only; a service in the own network may be reached by plain http.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Ask the API, and give back what it answers: JSON, a Blob for what is none, null for nothing.
 *
 * `query`, `json`, `form` (FormData) and `body` (Blob) are what is sent; `signal` gives up; `retries` tries again what the
 * service was too busy for, after the time that it asks for; what changes something carries an idempotency key, so that a repetition does
 * it once. `onUpload(fraction)` hears how much of the body is sent. Throws `Problem`.
 */
export async function ask(method, address, { query, json, form, body, signal, onUpload, retries = 2, key } = {}) {
  const url = new URL(address, location.origin);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const headers = { Accept: "application/json" };
  if (UNSAFE.has(method)) {
    headers["X-CSRF-Token"] = token;
    headers["Idempotency-Key"] = key ?? idempotencyKey();
  }
  let content = form ?? body ?? null;
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    content = JSON.stringify(json);
  }
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await (onUpload ? sendWithProgress : send)(method, url, headers, content, signal, onUpload);
    } catch (problem) {
      const wait_s = problem instanceof Problem && AGAIN.has(problem.status) ? problem.retryAfter_s : null;
      if (wait_s === null || wait_s > 10 || attempt >= retries) throw told(problem);
      await pause(wait_s * 1000 * (1 + Math.random() / 4), signal);
    }
  }
}

export const get = (address, query, options = {}) => ask("GET", address, { query, ...options });
export const post = (address, json, options = {}) => ask("POST", address, { json, ...options });

/** Every item of a list that comes in pages, as they come. */
export async function* pages(address, query = {}, options = {}) {
  let cursor = null;
  do {
    const page = await get(address, { ...query, cursor }, options);
    yield page.items;
    cursor = page.next_cursor;
  } while (cursor);
}

async function send(method, url, headers, content, signal) {
  try {
    const response = await fetch(url, { method, headers, body: content, signal, credentials: "same-origin", redirect: "error" });
    const type = response.headers.get("Content-Type") ?? "";
    if (!response.ok) throw problemOf(response.status, type, await response.text(), response.headers.get("Retry-After"));
    if (response.status === 204) return null;
    return await (type.includes("json") ? response.json() : response.blob());
  } catch (error) {
    // What is left is an answer that did not come, or not all of it.
    throw error instanceof Problem || error.name === "AbortError" ? error : new Problem(0, null);
  }
}

function sendWithProgress(method, url, headers, content, signal, onUpload) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // fetch does not tell how much it has sent
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onUpload(event.loaded / event.total));
    request.upload.addEventListener("load", () => onUpload(1));
    request.addEventListener("load", () => {
      const type = request.getResponseHeader("Content-Type") ?? "";
      if (request.status >= 400) {
        reject(problemOf(request.status, type, request.responseText, request.getResponseHeader("Retry-After")));
        return;
      }
      try { resolve(request.status === 204 ? null : JSON.parse(request.responseText)); } catch { reject(new Problem(0, null)); }
    });
    request.addEventListener("error", () => reject(new Problem(0, null)));
    request.addEventListener("abort", () => reject(new DOMException("given up", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(content);
  });
}

function problemOf(status, type, text, retryAfter) {
  let body = null;
  if (type.includes("json")) {
    try { body = JSON.parse(text); } catch { /* what is no JSON says nothing */ }
  }
  const seconds = retryAfter !== null && /^\d+$/.test(retryAfter) ? Number(retryAfter) : null;
  return new Problem(status, body, seconds);
}

let toldOfEnd = false;

function told(problem) {
  if (problem.status === 401 && !toldOfEnd) {
    toldOfEnd = true;
    const next = encodeURIComponent(location.pathname + location.search);
    notify(problem.message, "bad", { link: { href: `/sign-in?next=${next}`, text: t("Sign in again") } });
  }
  return problem;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("given up", "AbortError")); });
  });
}
