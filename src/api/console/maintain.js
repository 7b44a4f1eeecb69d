// Maintaining the service: the doctor, the session, what is kept, backups.

import { api, authorization, fetchPart, Failure, reload, say } from "./console.js";

const lang = document.documentElement.lang;

/** Starts the page's part; gives what ends it. */
export function start(main) {
  for (const node of main.querySelectorAll("time[data-at]")) showTime(node);
  for (const node of main.querySelectorAll("[data-number]")) node.textContent = number(node.dataset.number);
  for (const node of main.querySelectorAll("[data-bytes]")) node.textContent = size(Number(node.dataset.bytes));
  for (const node of main.querySelectorAll("[data-download]")) {
    node.addEventListener("click", () => download(main, node));
  }
  for (const node of main.querySelectorAll("[data-delete]")) node.addEventListener("click", () => ask(main, node));
  main.querySelector("#examine")?.addEventListener("click", () => examine(main));
  main.querySelector("#swap")?.addEventListener("submit", (event) => {
    event.preventDefault();
    swap(event.target);
  });
  let ended = false;
  if (main.querySelector("#findings")) examine(main, () => ended);
  return () => (ended = true);
}

async function examine(main, isOver = () => false) {
  const [found, button] = [main.querySelector("#findings"), main.querySelector("#examine")];
  const begun = Date.now();
  button.disabled = true;
  found.setAttribute("aria-busy", "true");
  found.classList.add("dim");
  try {
    const html = await fetchPart("doctor");
    if (isOver()) return;
    found.innerHTML = html;
    const at = new Intl.DateTimeFormat(lang, { timeStyle: "short" }).format(new Date());
    main.querySelector("#examined").textContent = `${at} · ${((Date.now() - begun) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (!isOver()) found.textContent = error.message;
  } finally {
    button.disabled = false;
    found.classList.remove("dim");
    found.removeAttribute("aria-busy");
  }
}

/** A new login: tested first; what is set here takes the headers of the same request along. */
async function swap(form) {
  const said = form.querySelector("#swap-said");
  const fields = Object.fromEntries(new FormData(form));
  const { pasted, api_key: key } = form.elements;
  if (!pasted?.value.trim() && !key?.value.trim()) return (pasted ?? key).focus();
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  said.className = "small";
  said.textContent = said.dataset.testing;
  try {
    const { session } = await api("PUT", "/api/session", fields);
    if (fields.pasted && form.dataset.source === "store") await keepHeaders(fields.pasted);
    await reload();
    tellSwapped(session);
  } catch (error) {
    said.className = "small bad";
    // By its code, in the reader's language; the service's own words where it has none.
    const known = form.querySelector(`template[data-code="${error.code}"]`);
    said.textContent = known?.content.textContent ?? `${error.message}. ${error.hint}`;
    say(said.textContent);
  } finally {
    button.disabled = false;
  }
}

/** Says what the test of the new login has shown: many a mirror gives the same to anyone. */
function tellSwapped(session) {
  const form = document.querySelector("#swap");
  if (!form) return;
  const words = form.querySelector(`template[data-swapped="${session}"]`) ?? form.querySelector("template[data-swapped=unknown]");
  const said = form.querySelector("#swap-said");
  said.replaceChildren(words.content.cloneNode(true));
  say(said.textContent);
  form.querySelector("#swap-title").focus();
}

/** Keeps what else the browser sent, such as its name: some mirrors take a cookie from that browser alone. */
async function keepHeaders(pasted) {
  const { upstream, settings } = await api("POST", "/api/upstream/read", { pasted, values: true });
  const headers = settings.find(({ name }) => name === "UPSTREAM_HEADERS");
  if (upstream && headers) await api("PUT", "/api/upstream", { headers: headers.value, test: false });
}

async function download(main, button) {
  const said = main.querySelector("[data-said]");
  said.textContent = "";
  button.disabled = true;
  try {
    const options = { headers: authorization(), cache: "no-store" };
    const response = await fetch(button.dataset.download, options).catch(() => {
      throw new Failure(0);
    });
    if (!response.ok) throw new Failure(response.status, (await response.json()).error);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    said.textContent = [error.message, error.hint].filter(Boolean).join(". ");
  } finally {
    button.disabled = false;
  }
}

function ask(main, button) {
  const dialog = main.querySelector("#delete");
  dialog.querySelector("#delete-who").textContent = button.dataset.who;
  dialog.querySelector("#delete-said").textContent = "";
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "delete") return;
    try {
      await api("DELETE", `/api/kept/${encodeURIComponent(button.dataset.delete)}`);
      await reload();
    } catch (error) {
      dialog.querySelector("#delete-said").textContent = error.message;
      dialog.showModal();
    }
  };
  dialog.showModal();
}

function showTime(node) {
  const at = new Date(Number(node.dataset.at));
  node.dateTime = at.toISOString();
  node.textContent = new Intl.DateTimeFormat(lang, { dateStyle: "short", timeStyle: "short" }).format(at);
}

function number(text) {
  return new Intl.NumberFormat(lang).format(Number(text));
}

function size(bytes) {
  const units = ["B", "KB", "MB", "GB"];
  const at = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  return `${new Intl.NumberFormat(lang, { maximumFractionDigits: at && 1 }).format(bytes / 1024 ** at)} ${units[at]}`;
}
