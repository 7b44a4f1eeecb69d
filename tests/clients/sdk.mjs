// Asks the service with the SDKs that programs in JavaScript use, for test_node_sdks.py. It reads one
// job a line from standard input and prints what the SDK made of it, as one line of JSON:
//
//   {"scenario": "openai_chat", "url": "http://.../v1", "key": "...", "model": "..."}

import { createInterface } from "node:readline";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const QUESTION = [{ role: "user", content: "你好" }];
const CITY = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const openai = (job) => new OpenAI({ baseURL: job.url, apiKey: job.key, maxRetries: 0 });
const chat = (job, more) => ({ model: job.model, messages: QUESTION, ...more });

/** What the OpenAI SDK throws, as its user sees it. */
async function failure(ask) {
  try {
    await ask();
  } catch (error) {
    return {
      name: error.constructor.name,
      status: error.status,
      code: error.code,
      type: error.type,
      hint: error.error?.hint,
      requestId: error.requestID ?? error.error?.request_id,
      retryAfter: error.headers?.get?.("retry-after"),
    };
  }
  return { name: "none" };
}

const openaiTools = (names) =>
  names.map((name) => ({ type: "function", function: { name, description: "about a city", parameters: CITY } }));

function model(job) {
  const provider = createOpenAICompatible({
    name: "mirrorgate",
    baseURL: job.url,
    apiKey: job.key,
    includeUsage: job.usage ?? true,
  });
  return { model: provider(job.model), maxRetries: 0 };
}

/** Tools that do what they are called for, and a list of what they were called with. */
function tools(names) {
  const called = [];
  const made = names.map((name) => [
    name,
    tool({
      description: "about a city",
      inputSchema: jsonSchema(CITY),
      execute: async (input, { toolCallId }) => {
        called.push({ name, input, id: toolCallId });
        return `${name} of ${input.city}: fine`;
      },
    }),
  ]);
  return { tools: Object.fromEntries(made), called };
}

const scenarios = {
  async openai_chat(job) {
    const { data, response } = await openai(job).chat.completions.create(chat(job)).withResponse();
    return {
      text: data.choices[0].message.content,
      finish: data.choices[0].finish_reason,
      usage: data.usage,
      requestId: response.headers.get("x-request-id"),
    };
  },

  async openai_others(job) {
    const models = [];
    for await (const { id } of openai(job).models.list()) models.push(id);
    const { data } = await openai(job).embeddings.create({ model: job.model, input: "ab" });
    return { models, embedding: data[0].embedding };
  },

  async openai_stream(job) {
    const stream = await openai(job).chat.completions.create(
      chat(job, { stream: true, stream_options: { include_usage: true } }),
    );
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    const helper = openai(job).chat.completions.stream(chat(job));
    const final = await helper.finalChatCompletion();
    const { content, role } = final.choices[0].message;
    return { text, usage, helper: { content, role, finish: final.choices[0].finish_reason } };
  },

  async openai_tools(job) {
    const offered = { tools: openaiTools(job.tools) };
    const told = ({ tool_calls }) =>
      tool_calls.map(({ id, function: { name, arguments: text } }) => ({ id, name, text }));
    const whole = await openai(job).chat.completions.create(chat(job, offered));
    const helper = openai(job).chat.completions.stream(chat(job, offered));
    const done = [];
    helper.on("tool_calls.function.arguments.done", ({ name }) => done.push(name));
    const final = await helper.finalChatCompletion();
    return {
      whole: told(whole.choices[0].message),
      streamed: told(final.choices[0].message),
      finish: final.choices[0].finish_reason,
      done,
    };
  },

  async openai_error(job) {
    const ask = (more) => failure(() => openai(job).chat.completions.create(chat(job, more)));
    return { whole: await ask(), streamed: await ask({ stream: true }) };
  },

  async openai_broken_stream(job) {
    let text = "";
    const read = async () => {
      const stream = await openai(job).chat.completions.create(chat(job, { stream: true }));
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    };
    const error = await failure(read);
    return { text, error };
  },

  async ai_text(job) {
    const { text, finishReason, usage, reasoningText } = await generateText({ ...model(job), prompt: "你好" });
    return { text, finishReason, usage, reasoning: reasoningText };
  },

  async ai_stream(job) {
    const errors = [];
    const result = streamText({ ...model(job), prompt: "你好", onError: ({ error }) => errors.push(error) });
    let text = "";
    let reasoning = "";
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") text += part.text;
      if (part.type === "reasoning-delta") reasoning += part.text;
    }
    if (errors.length) return { text, errors: errors.map((error) => JSON.stringify(error?.data ?? error)) };
    return { text, reasoning, finishReason: await result.finishReason, usage: await result.usage };
  },

  async ai_tools(job) {
    const once = tools(job.tools);
    const whole = await generateText({ ...model(job), prompt: "你好", tools: once.tools, stopWhen: stepCountIs(2) });
    const again = tools(job.tools);
    const result = streamText({ ...model(job), prompt: "你好", tools: again.tools, stopWhen: stepCountIs(2) });
    return {
      whole: { text: whole.text, called: once.called },
      streamed: { text: await result.text, called: again.called },
    };
  },

  async ai_error(job) {
    try {
      await generateText({ ...model(job), prompt: "你好" });
    } catch (error) {
      if (!APICallError.isInstance(error)) throw error;
      const { message, statusCode, isRetryable, data } = error;
      return { message, statusCode, isRetryable, data };
    }
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  const told = await scenarios[job.scenario](job).catch((error) => ({ thrown: error.stack ?? String(error) }));
  console.log(JSON.stringify(told));
}
