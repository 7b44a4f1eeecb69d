// Connecting a mirror: what is typed or pasted is read by the service, tested step by step, and saved.

import { api, say, stream } from "./console.js";

const SLOW = 350;

/** Starts the page's part; gives what ends it. */
export function start(main) {
  const form = main.querySelector("#setup");
  if (!form) return undefined;
  const page = new Setup(main, form);
  form.addEventListener("input", () => page.changed());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    page.test();
  });
  main.querySelector("#save").addEventListener("click", () => page.save());
  main.querySelector("#lines")?.addEventListener("click", () => page.showLines());
  return () => page.end();
}

class Setup {
  constructor(main, form) {
    this.main = main;
    this.form = form;
    this.words = {};
    for (const word of main.querySelector("#words").content.children) {
      this.words[word.dataset.word] = word.textContent;
    }
    this.total = form.querySelectorAll("[data-step]").length;
  }

  find(selector) {
    return this.main.querySelector(selector);
  }

  /** A text with the values that it names. */
  word(name, values = {}) {
    const text = this.words[name] ?? "";
    return text.replace(/\{(\w+)\}/g, (whole, value) => values[value] ?? whole);
  }

  mark(at) {
    return this.find("#marks").content.children[at].cloneNode(true);
  }

  /** What the form says, as `/api/upstream` takes it. */
  request() {
    const fields = Object.fromEntries([...new FormData(this.form)].filter(([, text]) => text.trim()));
    const kind = this.form.dataset.kind;
    if (fields.agent) fields.headers = `User-Agent: ${fields.agent.trim()}`;
    delete fields.agent;
    if (kind !== "web-chat" && fields.url) fields.protocol = kind === "cookie" ? "web-chat" : kind;
    return fields;
  }

  changed() {
    this.abort?.abort();
    this.reset();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.read(), SLOW);
  }

  async read() {
    const asked = this.request();
    const reading = (this.reading = {});
    const isGiven = Boolean(asked.pasted || asked.url);
    let said;
    try {
      said = isGiven ? await api("POST", "/api/upstream/read", asked) : { left_out: [] };
    } catch (error) {
      this.find("#said").textContent = error.message;
      return;
    }
    if (this.reading !== reading) return;
    const mistake = said.mistake;
    const known = mistake && (this.word(`mistake_${mistake.code}`) || mistake.message);
    this.find("#said").textContent = mistake ? known : "";
    const tag = this.find("#form-read");
    tag.hidden = !said.form || Boolean(mistake);
    tag.className = "tag ok";
    tag.textContent = this.word("understood", { form: this.word(`form_${said.form}`), size: size(said.bytes) });
    this.showRead(said.upstream);
    this.showLeft(said.left_out);
    this.find("#test").disabled = !said.upstream;
  }

  showRead(upstream) {
    this.find("#read").hidden = !upstream;
    if (!upstream) return;
    const list = (names) => names.join(", ");
    const rows = [
      ["url", upstream.url],
      ["kind", this.word(`kind_${upstream.protocol}`)],
      ["key", upstream.api_key],
      ["session", upstream.cookies.length && list(upstream.cookies.map(({ name, value }) => `${name}=${value}`))],
      ["headers", list(upstream.headers)],
      ["switches", list(upstream.switches)],
      ["model", upstream.default_model],
      ["models", list(upstream.models)],
    ].filter(([, text]) => text);
    const nodes = rows.map(([name, text]) => {
      const row = document.createElement("div");
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = this.word(`row_${name}`);
      value.textContent = text;
      row.append(term, value);
      return row;
    });
    this.find("#read dl").replaceChildren(...nodes);
  }

  showLeft(notes) {
    const shown = notes.filter(({ code }) => this.word(`note_${code}`));
    this.find("#left").hidden = !shown.length;
    const rows = shown.map(({ code, names }) => {
      const row = this.find("#note-row").content.cloneNode(true);
      row.querySelector("h3").textContent = this.word(`note_${code}`, { count: names.length });
      const few = names.slice(0, 4).join(", ") + (names.length > 4 ? ", …" : "");
      row.querySelector("p").textContent = this.word(`note_${code}_text`, { names: few });
      return row;
    });
    this.find("#left ul").replaceChildren(...rows);
  }

  /** Forgets how the latest test went: something else is asked for now. */
  reset() {
    for (const [at, row] of this.form.querySelectorAll("[data-step]").entries()) {
      row.className = "wait";
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.textContent = at + 1;
      row.querySelector(".mark").replaceWith(mark);
      row.querySelector("p").textContent = "";
      row.querySelector(".meta").textContent = "";
    }
    this.find("#at").textContent = "";
    this.find("#failed-step").hidden = true;
    this.find("#platform").hidden = true;
    this.find("#test").disabled = true;
    this.allow(false);
  }

  allow(passed) {
    for (const name of ["#save", "#lines"]) {
      const button = this.find(name);
      if (button) button.disabled = !passed;
    }
    const main = this.find("#lines") ?? this.find("#save");
    main.classList.toggle("primary", passed);
    this.find("#test").classList.toggle("primary", !passed);
  }

  async test() {
    const asked = this.request();
    this.reset();
    const abort = (this.abort = new AbortController());
    try {
      const response = await stream("/api/upstream/test", asked, abort.signal);
      if (!response.ok) {
        const { error } = await response.json();
        return void this.fail({ code: error.code, message: error.message, hint: error.hint });
      }
      for await (const line of lines(response.body)) this.step(line);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.fail({ code: error.code ?? "offline", message: error.message, hint: "" });
    } finally {
      if (this.abort === abort) this.find("#test").disabled = false;
    }
  }

  step(line) {
    if ("passed" in line) {
      this.allow(line.passed);
      if (line.passed) {
        this.find("#at").textContent = this.word("passed");
        say(this.word("passed"));
      }
      return;
    }
    const row = this.form.querySelector(`[data-step="${line.step}"]`);
    const mark = { running: 3, ok: 0, warning: 1, broken: 2 }[line.status];
    row.className = "";
    row.querySelector(".mark").replaceWith(this.mark(mark));
    if (line.status === "running") {
      const at = [...this.form.querySelectorAll("[data-step]")].indexOf(row) + 1;
      this.find("#at").textContent = this.word("at", { at, total: this.total });
      return;
    }
    row.querySelector(".meta").textContent = this.word("ms", { ms: line.ms });
    const text = this.word(`seen_${line.code}`, line.values);
    row.querySelector("p").textContent = line.status === "broken" ? "" : text || line.message;
    if (line.status === "broken") this.fail(line);
  }

  /** Says why a step failed, and what to do: by its code, in the reader's language. */
  fail(failed) {
    const known = this.word(`seen_${failed.code}`, failed.values);
    const note = this.find("#failed-step");
    note.querySelector("b").textContent = known || failed.message;
    const own = this.word(`fix_${failed.code}`);
    note.querySelector("p.small").textContent = own || failed.hint || "";
    note.querySelector("code").textContent = known ? failed.message : failed.code;
    note.hidden = false;
  }

  async save() {
    const asked = { ...this.request(), test: false };
    this.allow(false);
    try {
      await api("PUT", "/api/upstream", asked);
      // The first question, where there is a page for it.
      location.assign(document.querySelector('.tabs a[href^="/console/try"]')?.href ?? "/console");
    } catch (error) {
      this.allow(true);
      this.fail({ code: error.code, message: error.message, hint: error.hint });
    }
  }

  /** The settings as a platform's form takes them. */
  async showLines() {
    const { settings } = await api("POST", "/api/upstream/read", { ...this.request(), values: true });
    const rows = settings.map(({ name, value }) => {
      const row = this.find("#copy-row").content.cloneNode(true);
      row.querySelector("h3").textContent = name;
      row.querySelector("code").textContent = value;
      row.querySelector("button").setAttribute("aria-label", this.word("copy_value", { name }));
      return row;
    });
    this.find("#platform-lines").replaceChildren(...rows);
    const card = this.find("#platform");
    card.hidden = false;
    card.scrollIntoView({ block: "start" });
    card.querySelector("button")?.focus();
  }

  end() {
    clearTimeout(this.timer);
    this.abort?.abort();
  }
}

function size(bytes) {
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KB`;
}

/** The lines of JSON in a body, as they come. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}
