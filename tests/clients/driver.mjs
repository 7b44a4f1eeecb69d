// A real browser for browser.mjs, console.mjs and site.mjs: opens a page and collects what goes wrong in it.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--headless",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  // Nothing but the page under test may ask for anything.
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
// Chromium's sandbox refuses to run as root, which a container usually is.
if (process.getuid() === 0) FLAGS.push("--no-sandbox");

const WAIT = 15_000;

/** A browser for whoever opens pages in contexts of their own. */
export function launch() {
  return chromium.launch({ executablePath: CHROMIUM, args: FLAGS, chromiumSandbox: process.getuid() !== 0 });
}

/** Opens a page of the job's service; everything that a user would find as an error is collected. */
export async function open(job, address, { locale = "en-US", width = 1280, height = 900, javaScriptEnabled = true } = {}) {
  const profile = mkdtempSync(path.join(tmpdir(), "mirrorgate-browser-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    // A name of the job's is this machine, to see the pages as they are on a host of that name.
    args: job.host ? [...FLAGS, `--host-resolver-rules=MAP ${job.host} 127.0.0.1`] : FLAGS,
    // Playwright's own defaults would add a sandbox flag and background features.
    chromiumSandbox: process.getuid() !== 0,
    viewport: { width, height },
    locale,
    javaScriptEnabled,
  });
  context.setDefaultTimeout(WAIT);
  const page = context.pages()[0] ?? (await context.newPage());
  const troubles = [];
  page.on("pageerror", (error) => troubles.push(`script error: ${error.message}`));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) troubles.push(`console ${message.type()}: ${message.text()}`);
  });
  page.on("requestfailed", (request) => troubles.push(`failed: ${request.url()}: ${request.failure()?.errorText}`));
  page.on("response", (response) => {
    if (response.status() >= 400) troubles.push(`${response.status()}: ${response.url()}`);
  });
  const hosts = new Set();
  page.on("request", (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol.startsWith("http")) hosts.add(host);
  });
  const base = job.host ? `http://${job.host}:${new URL(job.url).port}` : job.url;
  const response = await page.goto(base + address, { waitUntil: "networkidle" });
  return {
    page,
    seen: { status: response.status(), troubles, hosts },
    async shot(name) {
      await page.screenshot({ path: path.join(job.shots, `${name}.png`), fullPage: true });
    },
    async close() {
      await context.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** The accessibility rules of WCAG 2.2 AA and axe's best practices that a page breaks, but for some of its elements. */
export async function broken(page, exclude = []) {
  await page.evaluate(AXE);
  const run = (exclude) => window.axe.run({ include: [document], exclude }, { resultTypes: ["violations"] });
  const { violations } = await page.evaluate(run, exclude);
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 120)).join(" | ")}`);
}

const overflow = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;

/** What a page shows. */
export async function facts(page) {
  return {
    title: await page.title(),
    lang: await page.getAttribute("html", "lang"),
    text: await page.innerText("body"),
    links: await page.$$eval("a[href]", (links) => links.map((link) => link.href)),
    overflow: await page.evaluate(overflow),
  };
}
