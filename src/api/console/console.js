// What all pages share: signing in and out, the page's part, calls of the API, copying, words for readers
// of a screen. A page's own module imports from here and has `start(main)`.

const TOKEN = "mirrorgate.token";
const IDLE = 30 * 60_000;
const RENEW_AFTER = 2 * 60_000;
const root = document.documentElement;
const words = document.body.dataset;
const isOpen = "open" in root.dataset;
const main = document.getElementById("main");
const byId = (id) => document.getElementById(id);

/** A call that failed: what the service says of it. */
export class Failure extends Error {
  constructor(status, error = {}) {
    super(error.message ?? words.offline);
    this.status = status;
    this.code = error.code ?? "offline";
    this.hint = error.hint ?? "";
    this.requestId = error.request_id ?? "";
  }
}

// --- the token ---

let renewal;
// Ends what the page's module has going on.
let stop;

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(TOKEN));
  } catch {
    return null;
  }
}

function keep({ token, expires_in }) {
  const now = Date.now();
  sessionStorage.setItem(TOKEN, JSON.stringify({ token, at: now, ends: now + 1000 * expires_in }));
}

/** The headers of a call as the owner. */
export function authorization(more = {}) {
  const token = kept()?.token;
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function signIn(key) {
  const headers = { Authorization: `Bearer ${key}` };
  const response = await fetch("/api/console/token", { method: "POST", headers, cache: "no-store" });
  const said = await response.json();
  if (!response.ok) throw new Failure(response.status, said.error);
  keep(said);
}

async function renew() {
  const response = await fetch("/api/console/token", { method: "POST", headers: authorization() });
  if (response.ok) keep(await response.json());
  else if (response.status === 401) signOut(words.ended);
}

/** Ends the sign-in of this tab. */
export function signOut(said = "") {
  sessionStorage.removeItem(TOKEN);
  root.classList.replace("in", "out");
  stop?.();
  stop = undefined;
  main.replaceChildren();
  byId("state").replaceChildren();
  if (byId("sign-in-said")) byId("sign-in-said").textContent = said;
  byId("sign-in-key")?.focus();
}

function watchIdleness() {
  let used = Date.now();
  const note = () => {
    used = Date.now();
    const held = kept();
    if (held && used - held.at > RENEW_AFTER && !renewal) {
      renewal = renew().catch(() => {}).finally(() => (renewal = null));
    }
  };
  for (const kind of ["pointerdown", "keydown", "wheel"]) addEventListener(kind, note, { passive: true });
  setInterval(() => {
    const held = kept();
    if (held && (Date.now() - used > IDLE || Date.now() > held.ends)) signOut(words.ended);
  }, 15_000);
}

// --- calls ---

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers: authorization(options?.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0);
  }
  if (response.status === 401 && !isOpen) signOut(words.ended);
  return response;
}

async function failure(response) {
  const said = await response.json().catch(() => ({}));
  return new Failure(response.status, said.error);
}

/** The answer of an operation of the API, or a thrown `Failure`. */
export async function api(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await ask(path, options);
  if (!response.ok) throw await failure(response);
  const said = await response.json();
  // What fails after its first blank has the status of a success.
  if (said.success === false) throw new Failure(response.status, said.error);
  return said;
}

/** The response of a call, for whoever reads it as it comes. */
export async function stream(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

/** A part that the service has rendered, and escaped, as HTML. */
export async function fetchPart(path, query = "") {
  const asked = new URLSearchParams(query);
  asked.set("lang", root.lang);
  // The days of a month are the reader's.
  asked.set("minutes", -new Date().getTimezoneOffset());
  const response = await ask(`/console/part/${path}?${asked}`);
  if (!response.ok) throw await failure(response);
  return response.text();
}

// --- the page ---

let loads = 0;
let shown = "";

/** Fetches the page's part anew, for the address as it is now. */
export async function reload() {
  const load = ++loads;
  shown = location.search;
  const slow = setTimeout(() => main.classList.add("dim"), 400);
  main.setAttribute("aria-busy", "true");
  try {
    const [html, module] = await Promise.all([
      fetchPart(words.page, location.search),
      words.script ? import(words.script) : undefined,
    ]);
    if (load !== loads) return;
    stop?.();
    main.innerHTML = html;
    stop = module?.start(main);
  } catch (error) {
    if (load === loads && error.status !== 401) showFailure(error);
  } finally {
    clearTimeout(slow);
    if (load === loads) {
      main.classList.remove("dim");
      main.removeAttribute("aria-busy");
    }
  }
}

function showFailure(error) {
  const card = byId("failed").content.cloneNode(true);
  card.querySelector("b").textContent = error.message;
  card.querySelector(".empty > p").textContent = error.hint ?? "";
  card.querySelector("code").textContent = [error.code, error.requestId].filter(Boolean).join(" · ");
  card.querySelector("button").addEventListener("click", reload);
  stop?.();
  stop = undefined;
  main.replaceChildren(card);
}

/** Goes to another view of this page: another query. */
export function go(query, { replace = false } = {}) {
  const lang = new URLSearchParams(location.search).get("lang");
  const asked = new URLSearchParams(query);
  if (lang) asked.set("lang", lang);
  const text = asked.toString();
  history[replace ? "replaceState" : "pushState"](null, "", location.pathname + (text && `?${text}`));
  return reload();
}

/** Says something to readers of a screen. */
export function say(text) {
  byId("live").textContent = "";
  // A moment of emptiness makes screen readers repeat the same words.
  setTimeout(() => (byId("live").textContent = text), 50);
}

/** Copies a text; `node` shows it, and is selected where the clipboard is not to be had. */
export async function copy(text, node) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Outside HTTPS and loopback there is no clipboard: what is selected can still be copied.
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

async function copyRow(button) {
  const source = button.dataset.copy ? byId(button.dataset.copy) : button.closest(".copy").querySelector("code");
  const done = await copy(source.textContent, source);
  say(done ? words.copied : words.copyFailed);
  const label = button.querySelector("span");
  if (!done || button.dataset.was) return;
  button.dataset.was = label.textContent;
  label.textContent = words.copied;
  setTimeout(() => {
    label.textContent = button.dataset.was;
    delete button.dataset.was;
  }, 2000);
}

let wasGone = false;

/** Shows how the mirror is, and whether the service answers at all. */
export async function showState() {
  if (document.hidden || root.classList.contains("out")) return;
  let isGone = false;
  try {
    byId("state").innerHTML = await fetchPart("state");
  } catch (error) {
    isGone = error.status === 0;
    if (isGone) byId("state").replaceChildren(Object.assign(document.createElement("b"), { textContent: words.offline }));
  }
  // What the page shows is what was known before.
  if (isGone !== wasGone) {
    wasGone = isGone;
    main.classList.toggle("dim", isGone);
    if (isGone) say(words.offline);
    else reload();
  }
}

async function show() {
  root.classList.replace("out", "in");
  await Promise.all([reload(), showState()]);
  // The place that the address names is there only now.
  const place = byId(location.hash.slice(1));
  if (main.contains(place)) place?.scrollIntoView();
}

function onClick(event) {
  const button = event.target.closest("button[data-copy]");
  if (button) return void copyRow(button);
  const link = event.target.closest("a[href]");
  const isPlain = !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button);
  if (!link || !isPlain) return;
  const query = link.getAttribute("href");
  if (link.hreflang) {
    event.preventDefault();
    const url = new URL(location.href);
    url.searchParams.set("lang", link.lang);
    location.assign(url);
  } else if (query.startsWith("?")) {
    // Another view of the same page.
    event.preventDefault();
    go(query);
  }
}

async function onSubmit(event) {
  event.preventDefault();
  const [field, said] = [byId("sign-in-key"), byId("sign-in-said")];
  const key = field.value.trim();
  if (!key) return field.focus();
  said.textContent = "";
  try {
    await signIn(key);
    field.value = "";
    await show();
    main.focus();
  } catch (error) {
    const known = { owner_only: words.callers, too_many_wrong_keys: words.guessing, offline: words.offline };
    said.textContent = known[error.code] ?? words.wrong;
    field.select();
  }
}

/** Takes the admin key of the printed link, and takes it out of the address. */
async function takeLink() {
  const key = new URLSearchParams(location.hash.slice(1).replace(/\+/g, "%2B")).get("admin");
  if (!key) return false;
  history.replaceState(null, "", location.pathname + location.search);
  if (isOpen) return false;
  try {
    await signIn(key);
    return true;
  } catch (error) {
    signOut(error.code === "offline" ? words.offline : words.wrong);
    return false;
  }
}

async function begin() {
  document.addEventListener("click", onClick);
  // Going to a place in the page is no other view of it.
  addEventListener("popstate", () => location.search !== shown && reload());
  addEventListener("hashchange", async () => (await takeLink()) && show());
  byId("sign-in-form")?.addEventListener("submit", onSubmit);
  byId("out")?.addEventListener("click", () => signOut());
  await takeLink();
  if (isOpen || kept()) await show();
  else signOut(byId("sign-in-said")?.textContent);
  watchIdleness();
  setInterval(showState, 30_000);
}

begin();
