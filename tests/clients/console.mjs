// Drives a real browser through the console and prints what it saw as JSON, for test_console.py.
//
//   node console.mjs SCENARIO '{"url": "...", "admin": "...", "shots": "directory"}'

import path from "node:path";
import { broken, launch } from "./driver.mjs";

/** Opens an address in a context of its own, and counts what it loads. */
async function open(browser, job, address, { width = 1280, scheme = "light", locale = "en-US", clock = false, ...more } = {}) {
  const height = { 360: 740, 1920: 1080 }[width] ?? 860;
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, locale, ...more });
  const page = await context.newPage();
  if (clock) await page.clock.install();
  const seen = { troubles: [], hosts: new Set(), bytes: 0 };
  page.on("pageerror", (error) => seen.troubles.push(`script error: ${error.message}`));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) seen.troubles.push(`${message.type()}: ${message.text()}`);
  });
  page.on("request", (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol.startsWith("http")) seen.hosts.add(host);
  });
  const loads = [];
  page.on("response", (response) => {
    // A stream of events has no end.
    if (response.headers()["content-type"]?.startsWith("text/event-stream")) return;
    loads.push(response.body().then((body) => (seen.bytes += body.length), () => {}));
  });
  await page.goto(job.url + address);
  if (more.javaScriptEnabled !== false) await settled(page);
  await Promise.all(loads);
  return { context, page, seen };
}

/** Waits until the page has its part, or asks to sign in. */
async function settled(page) {
  await page.waitForFunction(() => {
    const { classList } = document.documentElement;
    const main = document.querySelector("main");
    return classList.contains("out") || (main.children.length && !main.ariaBusy && document.querySelector("#state").children.length);
  });
}

const painted = () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime;
const overflow = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;

const shot = (job, page, name, fullPage = true) =>
  page.screenshot({ path: path.join(job.shots, `console-${name}.png`), fullPage });

async function signIn(page, key) {
  await page.fill("#sign-in-key", key);
  await page.keyboard.press("Enter");
}

const scenarios = {
  /** A page in each language, scheme and width: what is wrong with it. */
  async survey(browser, job) {
    const pages = [];
    for (const locale of ["en-US", "zh-TW"]) {
      for (const scheme of ["light", "dark"]) {
        for (const width of [360, 1280, 1920]) {
          const name = `${job.name}-${locale}-${scheme}-${width}`;
          const { context, page, seen } = await open(browser, job, job.address, { width, scheme, locale });
          await shot(job, page, name);
          pages.push({
            name,
            lang: await page.getAttribute("html", "lang"),
            address: page.url(),
            overflow: await page.evaluate(overflow),
            painted: await page.evaluate(painted),
            broken: await broken(page),
            ...seen,
            hosts: [...seen.hosts],
          });
          await context.close();
        }
      }
    }
    return { pages };
  },

  /** From the printed link to a key that calls, a conversation of three turns, and signing out. */
  async path(browser, job) {
    const zh = job.locale.startsWith("zh");
    const { page, seen } = await open(browser, job, `/console/connect#admin=${job.admin}`, { locale: job.locale });
    const told = { address: page.url() };
    const stored = () => page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }));
    told.stored = await stored();
    told.cookies = await page.context().cookies();

    // A key for Dify, by way of the page that says where it goes.
    await page.click("a[href^='/console/keys']:not(.tabs *)");
    await page.waitForSelector("#key-dialog[open]");
    told.focused = await page.evaluate(() => document.activeElement.name);
    told.proposed = await page.inputValue("[name=name]");
    await page.fill("[name=tokens_per_day]", "500,000");
    await shot(job, page, `new-key-${job.locale}`, false);
    told.brokenInDialog = await broken(page);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#made-dialog[open]");
    await page.keyboard.press("Escape");
    told.stays = await page.isVisible("#made-dialog");
    told.key = await page.innerText("#made-dialog .copy code");
    await shot(job, page, `made-key-${job.locale}`, false);
    await page.click("#stored");
    await page.waitForSelector(`[data-name=${told.proposed}]`);
    told.row = await page.innerText(`[data-name=${told.proposed}]`);

    // Its limits are changed; a name that is taken is refused in the dialog.
    await page.click(`[data-name=${told.proposed}] [data-do=edit]`);
    told.limitBefore = await page.inputValue("[name=tokens_per_day]");
    await page.fill("[name=rpm]", "60");
    await page.click("#key-form [type=submit]");
    await page.waitForSelector("#key-dialog", { state: "hidden" });
    await page.waitForFunction((name) => document.querySelector(`[data-name=${name}]`)?.innerText.includes("60"), told.proposed);
    await page.click("#new-key");
    await page.fill("[name=name]", told.proposed);
    await page.click("#key-form [type=submit]");
    told.refused = await page.innerText("#key-said");
    await page.keyboard.press("Escape");

    // A conversation.
    await page.click("a[href^='/console/try']");
    await page.waitForSelector("#message");
    told.answers = [];
    for (const [index, text] of ["One", "Two", "Three"].entries()) {
      await page.fill("#message", text);
      await page.keyboard.press("Enter");
      await page.waitForFunction(
        (count) => document.querySelectorAll(".it:not(.answering)").length === count && document.querySelector("#stop").hidden,
        index + 1,
      );
      told.answers.push(await page.innerText(".it:last-of-type"));
    }
    told.sent = await page.innerText("#sent");
    told.received = await page.innerText("#received");
    await page.click(".views label:has-text('curl')");
    told.curl = await page.innerText("#curl");
    await page.click(".views label:has-text('Python')");
    told.python = await page.innerText("#python");
    await shot(job, page, `tried-${job.locale}`);
    told.brokenInTalk = await broken(page);

    // The other language stays until it is changed back, also without its name in the address.
    await page.click(`.lang a[lang=${zh ? "en" : "zh-Hant"}]`);
    await page.waitForFunction((lang) => document.documentElement.lang === lang, zh ? "en" : "zh-Hant");
    await page.goto(`${job.url}/console/keys`);
    await settled(page);
    told.kept = await page.getAttribute("html", "lang");
    await page.click(`.lang a[lang=${zh ? "zh-Hant" : "en"}]`);
    await page.waitForSelector(".key");

    // Out, and in again with the key itself.
    await page.click("#out");
    await page.waitForSelector("#sign-in-key");
    told.afterOut = await page.evaluate(() => [sessionStorage.length, document.querySelector("main").innerText]);
    const before = seen.troubles.length;
    await signIn(page, "wrong-key-wrong-key");
    await page.waitForFunction(() => document.querySelector("#sign-in-said").textContent);
    told.wrong = await page.innerText("#sign-in-said");
    await signIn(page, told.key);
    await page.waitForFunction((said) => ![said, ""].includes(document.querySelector("#sign-in-said").textContent), told.wrong);
    told.callers = await page.innerText("#sign-in-said");
    // The browser itself reports the two refusals.
    seen.troubles.splice(before, 2);
    await signIn(page, job.admin);
    await page.waitForSelector(".key");
    return { ...told, ...seen, hosts: [...seen.hosts] };
  },

  /** A question that fails, one that breaks off and one that is stopped. */
  async failures(browser, job) {
    const { page } = await open(browser, job, `/console/try#admin=${job.admin}`, { locale: job.locale });
    const told = {};
    for (const what of ["fails", "breaks"]) {
      await page.fill("#message", what);
      await page.keyboard.press("Enter");
      await page.waitForSelector(".it:last-of-type .note .advice:not(:empty)");
      told[what] = await page.innerText(".it:last-of-type");
      await shot(job, page, `${what}-${job.locale}`);
      told[`${what}Broken`] = await broken(page);
    }
    await page.fill("#message", "slow");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".it:last-of-type .said:not(:empty)");
    await page.click("#stop");
    await page.waitForSelector("#send:not([hidden])");
    told.stopped = await page.innerText(".it:last-of-type");
    return told;
  },

  /** From the id under an answer to what the overview tells of that call, and on to all calls. */
  async call(browser, job) {
    const { context, page, seen } = await open(browser, job, `/console/try#admin=${job.admin}`, { locale: job.locale });
    await page.fill("#message", "Hello");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".it:not(.answering) .meta a");
    const id = await page.innerText(".it .meta code");
    const [tab] = await Promise.all([context.waitForEvent("page"), page.click(".it .meta a")]);
    await tab.waitForSelector("tr.open");
    const told = { id, opened: await tab.innerText("#calls"), rows: await tab.locator("#calls tbody tr:not(.more)").count() };
    told.place = await tab.evaluate(() => document.querySelector("#calls").getBoundingClientRect().top);
    told.broken = await broken(tab);
    await shot(job, tab, `call-${job.locale}`);
    await tab.click("#calls footer a");
    await tab.waitForFunction(() => document.querySelectorAll("#calls tbody tr:not(.more)").length > 1);
    told.stays = await page.locator(".me").count();
    return { ...told, troubles: seen.troubles };
  },

  /** A fresh service: what a browser copied is read, refused, tested and saved; later the login is renewed. */
  async connect(browser, job) {
    const { page, seen } = await open(browser, job, `/console#admin=${job.admin}`, { locale: job.locale });
    const told = { kinds: await page.innerText("main"), address: page.url() };
    await page.click("a[href='?kind=web-chat']");
    const paste = async (text) => {
      await page.fill("#pasted", text);
      await page.waitForFunction(() => document.querySelector("#said").textContent || !document.querySelector("#test").disabled);
    };
    await page.waitForSelector("#pasted");
    await paste(job.pasted.slice(0, 60));
    told.mistake = await page.innerText("#said");
    await paste(job.wrong);
    await page.click("#test");
    await page.waitForSelector("#failed-step:not([hidden])");
    told.failed = await page.innerText("#failed-step");
    told.cannotSave = await page.isDisabled("#save");
    told.brokenWhenFailed = await broken(page);
    await shot(job, page, `connect-failed-${job.locale}`);
    await paste(job.pasted);
    told.read = await page.innerText("#read");
    told.left = await page.innerText("#left");
    await page.click("#test");
    await page.waitForFunction(() => !document.querySelector("#save").disabled);
    told.steps = await page.locator(".tests .mark.ok").count();
    told.brokenWhenPassed = await broken(page);
    await shot(job, page, `connect-passed-${job.locale}`);
    await page.click("#save");
    await page.waitForURL("**/console/try*");
    await page.goto(`${job.url}/console/maintain`);
    await page.waitForSelector("#findings details");
    told.doctor = await page.innerText("#findings");
    const swap = async (text) => {
      await page.fill("#swap textarea", text);
      await page.click("#swap [type=submit]");
      await page.waitForFunction(() => !document.querySelector("#swap [type=submit]").disabled);
      return page.innerText("#swap-said");
    };
    told.refused = await swap(job.wrong);
    told.brokenInMaintain = await broken(page);
    await shot(job, page, `maintain-${job.locale}`);
    told.swapped = await swap(job.pasted);
    await page.goto(`${job.url}/console/maintain?audit=all`);
    await page.waitForSelector(".audit");
    told.audit = await page.innerText(".audit");
    return { ...told, troubles: seen.troubles, hosts: [...seen.hosts] };
  },

  /** A mirror that is given a key: with each of these in turn. */
  async renew(browser, job) {
    const { page, seen } = await open(browser, job, `/console/maintain#admin=${job.admin}`, { locale: job.locale });
    const told = { said: [], pastes: await page.locator("#swap textarea").count() };
    for (const key of job.keys) {
      await page.fill("#swap [name=api_key]", key);
      await page.click("#swap [type=submit]");
      await page.waitForFunction(() => {
        const said = document.querySelector("#swap-said");
        return said.textContent && said.textContent !== said.dataset.testing;
      });
      told.said.push(await page.innerText("#swap-said"));
    }
    await page.waitForSelector("#findings details");
    await page.evaluate(() => document.querySelectorAll("#main details").forEach((details) => (details.open = true)));
    told.broken = await broken(page);
    await shot(job, page, `renewed-${job.locale}`);
    return { ...told, troubles: seen.troubles };
  },

  /** A tab whose token the service does not take any more, one that nobody uses, and one without scripts. */
  async ended(browser, job) {
    const { page } = await open(browser, job, `/console/keys#admin=${job.admin}`);
    await page.evaluate(() => {
      const kept = JSON.parse(sessionStorage.getItem("mirrorgate.token"));
      sessionStorage.setItem("mirrorgate.token", JSON.stringify({ ...kept, token: `${kept.token.slice(0, -8)}AAAAAAAA` }));
    });
    await page.reload();
    await page.waitForSelector(".out #sign-in-key");
    const said = await page.innerText("#sign-in-said");
    const idle = await open(browser, job, `/console/keys#admin=${job.admin}`, { clock: true });
    await idle.page.clock.fastForward("29:00");
    const inUse = await idle.page.evaluate(() => document.documentElement.classList.contains("in"));
    await idle.page.clock.fastForward("02:00");
    await idle.page.waitForSelector(".out #sign-in-key");
    const bare = await open(browser, job, "/console/keys", { javaScriptEnabled: false });
    await shot(job, bare.page, "no-script");
    return { said, inUse, bare: await bare.page.innerText("body") };
  },
};

const [name, text] = process.argv.slice(2);
const browser = await launch();
try {
  console.log(JSON.stringify(await scenarios[name](browser, JSON.parse(text))));
} finally {
  await browser.close();
}
