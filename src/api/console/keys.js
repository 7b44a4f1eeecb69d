// The dialogs of the page of keys: make, edit, replace and revoke.

import { api, reload } from "./console.js";

const NUMBERS = ["rpm", "parallel", "tokens_per_day", "tokens_per_month"];
const MEGABYTE = 1048576;

export function start(main) {
  const find = (selector) => main.querySelector(selector);
  const [dialog, made, sure] = ["#key-dialog", "#made-dialog", "#sure-dialog"].map(find);
  const form = find("#key-form");
  const fields = form.elements;
  let edited = null;

  const names = () => [...main.querySelectorAll(".key")].map((key) => key.dataset.name);
  const list = (text) => text.split(/[,\s]+/).filter(Boolean);

  function open(key, name = "") {
    edited = key;
    form.reset();
    find("#key-said").textContent = "";
    for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    find("#key-title").textContent = key ? dialog.dataset.edit.replace("{name}", key.dataset.name) : dialog.dataset.new;
    form.querySelector("[type=submit]").textContent = key ? dialog.dataset.save : dialog.dataset.make;
    find("#key-name-field").hidden = Boolean(key);
    find("#rotate").hidden = !key;
    fields.name.value = name;
    const limits = key ? JSON.parse(key.dataset.limits) : {};
    const keep = form.querySelector("[value=keep]");
    keep.hidden = !limits.expires_at;
    if (limits.expires_at) {
      const at = new Date(limits.expires_at).toLocaleDateString(document.documentElement.lang, { year: "numeric", month: "2-digit", day: "2-digit" });
      keep.textContent = at;
      fields.expires.value = "keep";
    } else {
      fields.expires.value = "";
    }
    for (const name of NUMBERS) fields[name].value = limits[name]?.toLocaleString("en") ?? "";
    fields.models.value = limits.models?.join(", ") ?? "";
    fields.paths.value = limits.paths?.join(", ") ?? "";
    fields.storage.value = limits.storage_bytes == null ? "" : limits.storage_bytes / MEGABYTE;
    form.querySelector("details").open = Boolean(fields.paths.value || fields.storage.value);
    dialog.showModal();
    (key ? fields.expires : fields.name).focus();
  }

  function refuse(field, text) {
    field.setAttribute("aria-invalid", "true");
    find("#key-said").textContent = text;
    field.focus();
    return null;
  }

  /** What the form says, or nothing where a field is not understood. */
  function read() {
    const asked = {};
    for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    if (!edited) {
      asked.name = fields.name.value.trim();
      if (!/^[\w.-]{1,40}$/.test(asked.name) || asked.name === "owner") return refuse(fields.name, dialog.dataset.badName);
      if (names().includes(asked.name)) return refuse(fields.name, dialog.dataset.taken);
    }
    for (const name of NUMBERS) {
      const text = fields[name].value.replace(/[,\s]/g, "");
      if (text && !/^\d{1,15}$/.test(text)) return refuse(fields[name], dialog.dataset.badNumber);
      if (text) asked[name] = Number(text);
    }
    const storage = fields.storage.value.replace(/[,\s]/g, "");
    if (storage && !/^\d{1,9}(\.\d+)?$/.test(storage)) return refuse(fields.storage, dialog.dataset.badNumber);
    if (storage) asked.storage = String(Math.round(Number(storage) * MEGABYTE));
    if (fields.models.value.trim()) asked.models = list(fields.models.value);
    if (fields.paths.value.trim()) asked.paths = list(fields.paths.value);
    // As the service reads them, which takes /v1/files/* for files.
    if (asked.paths?.some((path) => !/^(\/?v1\/|\/)?[\w-][\w.-]*(\/[\w-][\w.-]*)*(\/\*?)?$/.test(path))) {
      return refuse(fields.paths, dialog.dataset.badPaths);
    }
    if (fields.expires.value === "keep") {
      const left = JSON.parse(edited.dataset.limits).expires_at - Date.now();
      asked.expires = `${Math.max(1, Math.round(left / 1000))}s`;
    } else if (fields.expires.value) {
      asked.expires = fields.expires.value;
    }
    return asked;
  }

  async function submit(event) {
    event.preventDefault();
    const asked = read();
    if (!asked) return;
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      if (edited) {
        await api("PUT", `/api/keys/${edited.dataset.name}`, asked);
        dialog.close();
        await reload();
      } else {
        show(await api("POST", "/api/keys", asked), made.dataset.made);
      }
    } catch (error) {
      find("#key-said").textContent = failed(error);
    } finally {
      button.disabled = false;
    }
  }

  function failed({ status, message, hint }) {
    if (status === 404) return dialog.dataset.gone;
    return hint ? `${message}: ${hint}` : message;
  }

  /** Shows a key's text, this once. */
  function show({ name, key }, title) {
    dialog.close();
    sure.close();
    made.querySelector("#made-title").textContent = title.replace("{name}", name);
    made.querySelector(".copy code").textContent = key;
    made.showModal();
    made.querySelector("[data-copy]").focus();
  }

  function ask(what, key) {
    const name = key.dataset.name;
    find("#sure-title").textContent = sure.dataset[what].replace("{name}", name);
    find("#sure-text").textContent = sure.dataset[`${what}Text`];
    find("#sure-said").textContent = "";
    const button = find("#sure");
    button.textContent = sure.dataset[`${what}Do`];
    button.onclick = async () => {
      button.disabled = true;
      try {
        if (what === "rotate") {
          show(await api("POST", `/api/keys/${name}/rotate`), made.dataset.rotated);
        } else {
          await api("DELETE", `/api/keys/${name}`);
          sure.close();
          await reload();
        }
      } catch (error) {
        find("#sure-said").textContent = failed(error);
      } finally {
        button.disabled = false;
      }
    };
    sure.showModal();
    sure.querySelector("[data-close]").focus();
  }

  function click(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const key = button.closest(".key");
    if (button.id === "new-key") open(null);
    else if (button.dataset.do === "edit") open(key);
    else if (button.dataset.do === "revoke") ask("revoke", key);
    else if (button.id === "rotate") {
      dialog.close();
      ask("rotate", edited);
    } else if (button.id === "stored") {
      // Gone from the page before it is closed, so that nothing keeps it.
      made.querySelector(".copy code").textContent = "";
      made.close();
      reload();
    } else if ("close" in button.dataset) button.closest("dialog").close();
  }

  main.addEventListener("click", click);
  form.addEventListener("submit", submit);
  // Its text is nowhere else: only the button that says so closes it.
  made.addEventListener("cancel", (event) => event.preventDefault());

  const query = new URLSearchParams(location.search);
  if (query.has("new") && find("#new-key")) {
    const name = query.get("new");
    query.delete("new");
    history.replaceState(null, "", location.pathname + (query.size ? `?${query}` : ""));
    open(null, names().includes(name) ? "" : name);
  }
  return () => main.removeEventListener("click", click);
}
