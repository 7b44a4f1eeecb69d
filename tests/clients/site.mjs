// Opens every page of a site that scripts/site has built, in light and in dark, and prints the accessibility rules that
// they break; it ends with 1 where there are any.
//
//   node site.mjs target/site/book

import { readdirSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { broken, launch } from "./driver.mjs";

// mdBook's script gives this label what only a button may have.
const EXCLUDED = ["#mdbook-sidebar-toggle"];

const folder = path.resolve(process.argv[2]);
// Two of mdBook's own: an address that the server shows in place of a missing page, and all chapters on one page.
const pages = readdirSync(folder, { recursive: true })
  .filter((file) => file.endsWith(".html") && !["404.html", "print.html", "toc.html"].includes(file))
  .sort();

// What is broken, with the pages where it is.
const found = new Map();
const browser = await launch();
for (const colorScheme of ["light", "dark"]) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  for (const file of pages) {
    await page.goto(pathToFileURL(path.join(folder, file)).href, { waitUntil: "load" });
    for (const violation of await broken(page, EXCLUDED)) {
      found.set(violation, [...(found.get(violation) ?? []), `${file} (${colorScheme})`]);
    }
  }
  await context.close();
}
await browser.close();

for (const [violation, places] of found) {
  const more = places.length > 3 ? ` and ${places.length - 3} more` : "";
  console.log(`${violation}\n  on ${places.slice(0, 3).join(", ")}${more}`);
}
console.log(`axe: ${pages.length} pages in light and dark, ${found.size} violations`);
process.exit(found.size > 0 ? 1 : 0);
