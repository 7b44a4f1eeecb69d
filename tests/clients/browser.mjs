// Drives a real browser through one scenario and prints what it saw as JSON, for test_browser.py.
//
//   node browser.mjs SCENARIO '{"url": "...", "key": "...", "shots": "directory"}'
//
// Everything that a user would find in the browser's console as an error is collected: script
// errors, console errors (refusals by the content security policy are among them), failed requests
// and answers of 400 and above.

import { open, facts } from "./driver.mjs";

const scenarios = {
  /** The home page as it opens, in the locale and width of the job. */
  async home(job) {
    const browser = await open(job, job.address ?? "/", job);
    if (job.address === "/docs") {
      // Swagger UI draws itself after it has read the document.
      await browser.page.locator(".opblock").first().waitFor();
    }
    const seen = { ...browser.seen, ...(await facts(browser.page)) };
    await browser.shot(job.name);
    await browser.close();
    return seen;
  },

  /** What the first copy button, on the home page the one beside the document's URL, puts on the clipboard. */
  async copy(job) {
    const browser = await open(job, job.address ?? "/", job);
    const button = browser.page.getByRole("button", { name: /copy|複製/i }).first();
    const before = await button.innerText();
    await button.click();
    // Whoever clicked wants to see that it worked.
    await browser.page.waitForFunction(
      ([element, text]) => element.innerText !== text || document.querySelector("[role=status], [aria-live]")?.innerText,
      [await button.elementHandle(), before],
    );
    await browser.shot(job.name);
    // Pasted as a person would: a page may not read the clipboard.
    await browser.page.evaluate(() => {
      const field = document.body.appendChild(document.createElement("input"));
      field.id = "pasted";
    });
    await browser.page.focus("#pasted");
    await browser.page.keyboard.press("Control+V");
    const copied = await browser.page.inputValue("#pasted");
    await browser.close();
    return { ...browser.seen, copied };
  },

  /** The command on the page, as the link of the first start fills it in. */
  async command(job) {
    const browser = await open(job, `/#key=${job.key}`, job);
    const command = browser.page.locator("pre, code").filter({ hasText: /^\s*\$?\s*curl/ }).first();
    await command.filter({ hasText: job.key }).waitFor();
    const seen = {
      ...browser.seen,
      command: await command.innerText(),
      // The key is a secret: it goes to no server and stays in no history.
      address: browser.page.url(),
      stored: await browser.page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage })),
    };
    await browser.shot("home-command");
    await browser.close();
    return seen;
  },

  /** Swagger UI: both documents, Authorize, "Try it out" on chat. */
  async docs(job) {
    const browser = await open(job, "/docs", job);
    const { page } = browser;
    const select = page.locator("select#select");
    await select.waitFor();
    const documents = await select.locator("option").evaluateAll((options) =>
      options.map((option) => ({ label: option.textContent, value: option.value })),
    );
    const titles = {};
    for (const { value } of documents) {
      await select.selectOption(value);
      await page.waitForLoadState("networkidle");
      await page.locator(".opblock").first().waitFor();
      titles[value] = {
        title: await page.locator(".info .title").innerText(),
        operations: await page.locator(".opblock .opblock-summary-path").evaluateAll((paths) =>
          paths.map((path) => path.dataset.path),
        ),
      };
    }
    await select.selectOption(documents.find(({ value }) => value.includes("/openapi.json")).value);
    await page.locator('.opblock [data-path="/api/chat"]').waitFor();
    await page.waitForFunction(() => document.querySelectorAll(".opblock").length === 3);
    await browser.shot("docs");

    await page.locator(".auth-wrapper .btn.authorize").click();
    const dialog = page.locator(".dialog-ux");
    await dialog.locator("input[type=text], input[type=password]").first().fill(job.key);
    await dialog.getByRole("button", { name: /apply credentials/i }).first().click();
    await dialog.getByRole("button", { name: /close/i }).first().click();

    const chat = page.locator(".opblock", { has: page.locator('[data-path="/api/chat"]') });
    await chat.locator(".opblock-summary-control").click();
    // The page may open with "Try it out" pressed; then the button says "Cancel".
    await chat.locator(".try-out__btn").waitFor();
    const pressed = await chat.locator(".try-out__btn.cancel").count();
    if (!pressed) await chat.locator(".try-out__btn").click();
    const example = await chat.locator(".body-param textarea").inputValue();
    await chat.locator(".execute").click();
    const live = chat.locator(".live-responses-table");
    await live.waitFor();
    const status = await live.locator(".response .response-col_status").first().innerText();
    const answer = await live.locator(".response pre.microlight").first().innerText();
    await browser.shot("docs-chat");
    await browser.close();
    return { ...browser.seen, documents, titles, example, executed: { status, answer } };
  },

  /** What a page gets from the service at `job.target` ("" is the page's own): how each attempt ended. */
  async attempts(job) {
    const browser = await open(job, job.address ?? "/");
    const ended = await browser.page.evaluate(async ({ target, attempts }) => {
      const ended = [];
      for (const { method = "GET", path, media, body, how = "cors" } of attempts) {
        const url = target + path;
        if (how === "beacon") {
          ended.push(`sent: ${navigator.sendBeacon(url, new Blob([body], { type: media }))}`);
        } else if (how === "form") {
          const frame = document.createElement("iframe");
          frame.name = `frame-${ended.length}`;
          document.body.append(frame);
          const form = document.body.appendChild(document.createElement("form"));
          Object.assign(form, { method, action: url, enctype: media, target: frame.name });
          // Written so that name and value together are the JSON.
          const field = form.appendChild(document.createElement("input"));
          [field.name, field.value] = [body.slice(0, -2), body.slice(-2)];
          const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
          form.submit();
          await loaded;
          ended.push("sent");
        } else {
          const headers = media ? { "Content-Type": media } : {};
          try {
            const answer = await fetch(url, { method, mode: how, headers, body });
            ended.push(answer.type === "opaque" ? "sent" : `${answer.status}: ${await answer.text()}`);
          } catch (error) {
            ended.push(`failed: ${error.message}`);
          }
        }
      }
      return ended;
    }, job);
    await browser.close();
    return { ...browser.seen, ended };
  },
};

const [name, job] = process.argv.slice(2);
const seen = await scenarios[name](JSON.parse(job));
console.log(JSON.stringify({ ...seen, hosts: [...seen.hosts] }));
