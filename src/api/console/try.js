// The playground: asks as a client of /v1 would, shows the answer as it comes, and the call in other forms.

import { api, say as announce, stream } from "./console.js";

const PATH = "/v1/chat/completions";

/** The events of an answer, as objects; the last may be an error. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
    if (done) return;
  }
}

const seconds = (milliseconds) => (milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 1);
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** JSON with its names marked, as nodes: no text of anybody's becomes markup. */
function marked(value) {
  const nodes = document.createDocumentFragment();
  for (const line of JSON.stringify(value, null, 2).split("\n")) {
    const [, space, name, rest] = line.match(/^(\s*)("(?:[^"\\]|\\.)*")(: .*)$/) ?? [];
    if (nodes.childNodes.length) nodes.append("\n");
    if (!name) {
      nodes.append(line);
      continue;
    }
    const mark = document.createElement("b");
    mark.textContent = name;
    nodes.append(space, mark, rest);
  }
  return nodes;
}

/** A link to what the overview tells of a call. The conversation stays here: it is kept nowhere else. */
function linkTo(requestId) {
  const link = document.getElementById("call").content.cloneNode(true).firstElementChild;
  link.href = `/console?${new URLSearchParams({ request: requestId })}#calls`;
  link.querySelector("code").textContent = requestId;
  return link;
}

export function start(main) {
  const find = (id) => main.querySelector(`#${id}`);
  const box = main.querySelector(".try");
  const words = box.dataset;
  const [log, message, system, model] = ["log", "message", "system", "model"].map(find);
  let turns = [];
  let running = null;

  function request(messages) {
    const all = system.value.trim() ? [{ role: "system", content: system.value }, ...messages] : messages;
    const asked = { messages: all, stream: true, stream_options: { include_usage: true } };
    return model.value ? { model: model.value, ...asked } : asked;
  }

  function showForms(asked, bare) {
    const sent = find("sent");
    sent.replaceChildren(`POST ${PATH}\n`, marked(asked));
    const { stream: _, stream_options: __, ...plain } = asked;
    find("curl").textContent = [
      `curl ${words.base}${PATH}`,
      "-H 'Authorization: Bearer YOUR_KEY'",
      "-H 'Content-Type: application/json'",
      `-d ${quoted(JSON.stringify(plain, null, 2))}`,
    ].join(" \\\n  ");
    const python = (value) => JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
    find("python").textContent = `from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${words.base}/v1`)}, api_key="YOUR_KEY")
answer = client.chat.completions.create(
    model=${JSON.stringify(plain.model ?? "")},
    messages=${python(plain.messages)},
)
print(answer.choices[0].message.content)`;
    if (bare) return;
    find("received").replaceChildren();
  }

  function bubble(text) {
    const node = document.createElement("p");
    node.className = "me";
    node.textContent = text;
    return node;
  }

  /** What is known of an answer while it comes and when it has come. */
  class Answer {
    constructor(asked) {
      this.node = find("answer").content.cloneNode(true).firstElementChild;
      this.begun = performance.now();
      this.known = { text: "", model: asked.model, finish_reason: null, usage: null, error: null };
    }

    take(event) {
      if (event.error) throw Object.assign(new Error(event.error.message), event.error);
      const choice = event.choices?.[0];
      const piece = choice?.delta?.content ?? "";
      if (piece && !this.first) this.first = performance.now() - this.begun;
      this.known.id ??= event.id;
      this.known.model = event.model ?? this.known.model;
      this.known.text += piece;
      this.known.finish_reason = choice?.finish_reason ?? this.known.finish_reason;
      this.known.usage = event.usage ?? this.known.usage;
      this.draw();
    }

    // Drawn at most once a frame: an answer may come in thousands of pieces.
    draw() {
      this.frame ??= requestAnimationFrame(() => {
        this.frame = undefined;
        this.show();
      });
    }

    show() {
      const { text, id, finish_reason, usage } = this.known;
      const follows = this.node.getBoundingClientRect().bottom < innerHeight;
      this.node.querySelector(".said").textContent = text;
      this.showMeta();
      find("received-title").textContent = this.ended ? words.received : words.receiving;
      const choice = { index: 0, message: { role: "assistant", content: text }, finish_reason };
      const whole = { id, object: "chat.completion", model: this.known.model, choices: [choice], usage };
      const part = text ? whole : {};
      find("received").replaceChildren(marked(this.error ? { error: this.error, ...part } : whole));
      if (follows) this.node.scrollIntoView({ block: "nearest" });
    }

    showMeta() {
      const meta = this.node.querySelector(".meta");
      const { usage } = this.known;
      const said = [];
      const add = (text) => said.push(Object.assign(document.createElement("span"), { textContent: text }));
      if (!this.ended) {
        const running = find("running").content.cloneNode(true);
        running.querySelector("span span:last-child").textContent = this.first ? words.answering : words.waiting;
        said.push(running);
      } else if (this.said) add(this.said);
      if (this.first) add(words.first.replace("{n}", seconds(this.first)));
      const total = seconds((this.ended ?? performance.now()) - this.begun);
      add((this.ended ? words.seconds : words.soFar).replace("{n}", total));
      if (usage) {
        const counts = words.tokens.replace("{in}", usage.prompt_tokens).replace("{out}", usage.completion_tokens);
        add(usage.estimated ? `${counts} ${words.estimated}` : counts);
      }
      if (this.requestId) said.push(this.link ??= linkTo(this.requestId));
      meta.replaceChildren(...said);
    }

    end(said) {
      this.ended = performance.now();
      this.said = said;
      this.node.classList.remove("answering");
      cancelAnimationFrame(this.frame);
      this.show();
    }

    async fail(error) {
      this.error = { message: error.message, code: error.code, hint: error.hint };
      this.end(this.known.text ? words.part : "");
      const note = find("failure").content.cloneNode(true);
      const [what, advice, code] = ["b", ".advice", "code"].map((part) => note.querySelector(part));
      what.textContent = words.failed;
      this.node.append(note);
      announce(words.failed);
      // In the reader's language, by this service's own code of the failure.
      const told = await api("GET", `/console/part/advice?${new URLSearchParams({
        code: error.code ?? "", request_id: this.requestId ?? "", lang: document.documentElement.lang,
      })}`).catch(() => ({ code: error.code }));
      if (told.what) what.textContent = words.failedWhy.replace("{what}", told.what);
      advice.textContent = told.hint ?? error.hint ?? "";
      code.textContent = [told.code, error.message].filter(Boolean).join(": ");
    }
  }

  async function ask(text) {
    find("nothing").hidden = true;
    const asked = request([...turns, { role: "user", content: text }]);
    showForms(asked);
    const answer = new Answer(asked);
    const question = bubble(text);
    answer.node.classList.add("answering");
    log.append(question, answer.node);
    answer.show();
    answer.node.scrollIntoView({ block: "nearest" });
    running = new AbortController();
    const clock = setInterval(() => answer.showMeta(), 100);
    setRunning(true);
    try {
      const response = await stream(PATH, asked, running.signal);
      answer.requestId = response.headers.get("x-request-id") ?? "";
      if (!response.ok) {
        const { error = {} } = await response.json().catch(() => ({}));
        throw Object.assign(new Error(error.message ?? response.statusText), error);
      }
      for await (const event of events(response)) answer.take(event);
      answer.end(answer.known.text ? "" : words.empty);
      turns.push({ role: "user", content: text }, { role: "assistant", content: answer.known.text });
      announce(words.answered);
    } catch (error) {
      if (error.name === "AbortError") {
        answer.end(words.stopped);
        if (answer.known.text) turns.push({ role: "user", content: text }, { role: "assistant", content: answer.known.text });
      } else {
        await answer.fail(error);
        answer.node.querySelector("[data-again]")?.addEventListener("click", () => {
          question.remove();
          answer.node.remove();
          ask(text);
        });
      }
    } finally {
      clearInterval(clock);
      setRunning(false);
    }
  }

  function setRunning(is) {
    if (!is) running = null;
    find("send").hidden = is;
    find("stop").hidden = !is;
  }

  function submit(event) {
    event?.preventDefault();
    const text = message.value.trim();
    if (!text || running) return;
    message.value = "";
    ask(text);
    message.focus();
  }

  function preview() {
    if (running) return;
    showForms(request([...turns, { role: "user", content: message.value || message.placeholder }]), true);
  }

  function describeSystem() {
    const text = system.value.trim();
    find("system-summary").textContent = text ? `${words.system}: “${text.length > 60 ? `${text.slice(0, 60)}…` : text}”` : words.system;
    preview();
  }

  find("say").addEventListener("submit", submit);
  find("stop").addEventListener("click", () => running?.abort());
  message.addEventListener("keydown", (event) => {
    // While an input method composes characters, Enter is its own.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
  message.addEventListener("input", preview);
  system.addEventListener("input", describeSystem);
  model.addEventListener("change", preview);
  find("new-chat").addEventListener("click", () => {
    running?.abort();
    turns = [];
    for (const node of log.querySelectorAll(".me, .it")) node.remove();
    find("nothing").hidden = false;
    preview();
    message.focus();
  });
  preview();
  return () => running?.abort();
}
