// The overview: plots with one crosshair, the list of calls as they come, times in the reader's own.

import { authorization, fetchPart, go, reload, say, showState } from "./console.js";
import uPlot from "./uplot.js";

const lang = document.documentElement.lang;
const clock = new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minute = new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(lang, { month: "short", day: "numeric" });
const DAY = 86_400_000;
const HEIGHT = 142;

/** Calls that come are shown at most so often, and the plots made anew. */
const PAUSE = 1000;
const PLOTS = 60_000;

function sayTimes(root, span) {
  for (const time of root.querySelectorAll("time[data-at]")) {
    const at = new Date(Number(time.dataset.at));
    time.dateTime = at.toISOString();
    const isOld = Date.now() - at > DAY;
    if ("slot" in time.dataset) time.textContent = slotName(at, span);
    else if ("short" in time.dataset) time.textContent = isOld ? day.format(at) : minute.format(at);
    else time.textContent = isOld ? `${day.format(at)} ${minute.format(at)}` : clock.format(at);
  }
}

function slotName(at, span) {
  return span >= DAY ? day.format(at) : minute.format(at);
}

// --- figures ---

function short(number) {
  if (number < 10_000) return number.toLocaleString("en");
  const [scaled, unit] = number < 1e6 ? [number / 1e3, "k"] : number < 1e9 ? [number / 1e6, "M"] : [number / 1e9, "G"];
  return `${scaled < 10 && unit !== "k" ? scaled.toFixed(1) : Math.round(scaled)} ${unit}`;
}

function seconds(ms) {
  if (ms === null) return "–";
  if (ms < 100) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : ms < 100_000 ? 1 : 0)} s`;
}

const SAID = { count: (number) => number.toLocaleString("en"), tokens: short, ms: seconds };
const AXIS = { count: short, tokens: short, ms: (ms) => (ms < 10_000 && ms % 1000 ? `${ms / 1000} s` : `${Math.round(ms / 1000)} s`) };

/** A round number above all values, whose half is round as well. */
function top(values, unit) {
  const most = Math.max(unit === "ms" ? 200 : 2, ...values);
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 1.2, 2, 3, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= most && (unit === "ms" || step % 2 === 0)) ?? 10 * power;
}

// --- plots ---

function colourOf(swatch) {
  const style = getComputedStyle(swatch);
  return swatch.tagName === "line" ? style.stroke : style.fill;
}

/** Layers of bars upon each other: each value is the height up to its top; none where there is nothing. */
function stacked(values) {
  const below = values[0]?.map(() => 0) ?? [];
  return values.map((layer) => layer.map((value, slot) => (below[slot] += value) || null));
}

function drawn(card, starts, span, now) {
  const { unit } = card.dataset;
  const values = JSON.parse(card.dataset.values);
  const holder = card.querySelector(".plot");
  const swatches = [...card.querySelectorAll(".legend svg > *")];
  const isLines = unit === "ms";
  // The highest layer is drawn first, and the others over it.
  const layers = isLines ? values : stacked(values).reverse();
  const order = isLines ? swatches : [...swatches].reverse();
  const high = top(layers.flat().filter((value) => value !== null), unit);
  const ink = () => getComputedStyle(card.querySelector("small")).color;
  const rule = () => getComputedStyle(card).borderTopColor;
  const font = "12px system-ui, sans-serif";
  const bars = uPlot.paths.bars({ size: [0.86, 26], align: 0 });
  const series = order.map((swatch) => {
    const colour = () => colourOf(swatch);
    if (isLines) {
      return { stroke: colour, width: 2, dash: swatch.classList.contains("dash") ? [5, 4] : [], points: { show: (u, i) => u.data[i].filter((value) => value !== null).length < 3, size: 5, fill: colour }, spanGaps: true };
    }
    return { fill: colour, stroke: () => getComputedStyle(card).backgroundColor, width: 1, paths: bars, points: { show: false } };
  });
  const plot = new uPlot(
    {
      width: holder.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      padding: [8, 14, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false }, bind: { mousemove: () => null, mouseleave: () => null, mousedown: () => null, mouseup: () => null, dblclick: () => null } },
      scales: { x: { time: false, range: [-0.5, starts.length - 0.5] }, y: { range: [0, high] } },
      axes: [
        {
          stroke: ink, font, size: 26, gap: 6, ticks: { show: false }, grid: { show: false },
          splits: (u) => {
            const step = Math.max(1, Math.ceil(starts.length / Math.max(2, u.width / (span >= DAY ? 76 : 58))));
            const all = [];
            for (let slot = starts.length - 1; slot >= 0; slot -= step) all.unshift(slot);
            return all;
          },
          values: (u, splits) => splits.map((slot) => (slot === starts.length - 1 ? now : slotName(starts[slot], span))),
        },
        { stroke: ink, font, size: 50, gap: 6, ticks: { show: false }, grid: { stroke: rule, width: 1 }, splits: () => [0, high / 2, high], values: (u, splits) => splits.map((value) => (value ? AXIS[unit](value) : "0")) },
      ],
      series: [{}, ...series],
    },
    [starts.map((_, slot) => slot), ...layers],
    holder,
  );
  plot.root.setAttribute("aria-hidden", "true");
  return { card, plot, holder, values, unit };
}

/** All plots, with one crosshair whose slot the legends tell. */
function plots(root, ending) {
  const starts = JSON.parse(root.dataset.starts);
  const span = Number(root.dataset.span);
  const all = [...root.querySelectorAll("section")].map((card) => drawn(card, starts, span, root.dataset.now));
  const totals = all.map(({ card }) => [...card.querySelectorAll(".legend b")].map((value) => value.textContent));
  let marked = null;
  const mark = (slot) => {
    if (slot === marked) return;
    marked = slot;
    all.forEach(({ card, plot, holder, values, unit }, index) => {
      const left = slot === null ? -10 : plot.valToPos(slot, "x");
      plot.setCursor({ left, top: slot === null ? -10 : 1 }, false);
      card.querySelectorAll(".legend b").forEach((value, part) => {
        value.textContent = slot === null ? totals[index][part] : SAID[unit](values[part][slot]);
      });
      card.querySelector(".at").textContent = slot === null ? "" : slotName(starts[slot], span);
      const told = [...card.querySelectorAll(".at, .legend li")].map((part) => part.textContent.trim()).filter(Boolean);
      holder.setAttribute("aria-valuenow", slot ?? starts.length - 1);
      holder.setAttribute("aria-valuetext", told.join(", "));
    });
  };
  const keys = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, Home: -Infinity, End: Infinity };
  for (const { plot, holder } of all) {
    const at = (event) => Math.min(starts.length - 1, Math.max(0, Math.round(plot.posToVal(event.clientX - plot.over.getBoundingClientRect().left, "x"))));
    holder.addEventListener("pointermove", (event) => mark(at(event)));
    holder.addEventListener("pointerdown", (event) => mark(at(event)));
    holder.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && mark(null));
    holder.addEventListener("blur", () => mark(null));
    holder.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return mark(null);
      if (!(event.key in keys)) return;
      event.preventDefault();
      mark(Math.min(starts.length - 1, Math.max(0, (marked ?? starts.length) + keys[event.key])));
    });
  }
  const watch = new ResizeObserver(() => {
    for (const { plot, holder } of all) plot.setSize({ width: holder.clientWidth, height: HEIGHT });
    const before = marked;
    marked = undefined;
    mark(before);
  });
  watch.observe(root);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => all.forEach(({ plot }) => plot.redraw(false)), { signal: ending });
  ending.addEventListener("abort", () => {
    watch.disconnect();
    all.forEach(({ plot }) => plot.destroy());
  });
}

// --- the list ---

let isLive = true;

function list(section, ending) {
  let asked = 0;
  const show = async () => {
    const ask = ++asked;
    const html = await fetchPart("overview/calls", location.search).catch(() => null);
    if (html === null || ask !== asked || ending.aborted) return false;
    const { id } = document.activeElement ?? {};
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    // The filters stay as they are: one of them may be open, or have the focus.
    const [before, now] = [section.querySelector("header:has(form)"), fresh.content.querySelector("header:has(form)")];
    if (before && now) now.replaceWith(before);
    section.replaceChildren(fresh.content);
    sayTimes(section);
    press();
    if (id) document.getElementById(id)?.focus({ preventScroll: true });
    return true;
  };
  const press = () => section.querySelector("#live-button")?.setAttribute("aria-pressed", String(isLive));
  // A row that is open or has the focus is not to move away.
  const isHeld = () => document.hidden || section.querySelector("tr.open, tr:focus-within");
  document.addEventListener(
    "click",
    async (event) => {
      const link = event.target.closest("a[data-call]");
      if (link && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button)) {
        event.preventDefault();
        event.stopPropagation();
        const query = new URLSearchParams(link.getAttribute("href"));
        const lang = new URLSearchParams(location.search).get("lang");
        if (lang) query.set("lang", lang);
        history.pushState(null, "", location.pathname + (query.size ? `?${query}` : ""));
        await show();
        section.querySelector("tr.open")?.scrollIntoView({ block: "nearest" });
      }
      if (event.target.closest("#live-button")) {
        isLive = !isLive;
        press();
        if (isLive) show();
      }
    },
    { capture: true, signal: ending },
  );
  section.addEventListener("change", (event) => event.target.closest("#filters") && go(queryWith(event.target)));
  press();
  follow(() => isLive && !isHeld() && show(), ending);
}

/** The query of this view with what was chosen. */
function queryWith(select) {
  const query = new URLSearchParams(location.search);
  for (const name of ["call", "request", "show"]) query.delete(name);
  if (select.value) query.set(select.name, select.value);
  else query.delete(select.name);
  return query.toString();
}

const pause = (time) => new Promise((done) => setTimeout(done, time));

/** Calls `show` when calls have begun or ended, until the page goes. */
async function follow(show, ending) {
  let last = 0;
  while (!ending.aborted) {
    try {
      const response = await fetch("/api/calls/live", { headers: authorization(), signal: ending, cache: "no-store" });
      if (!response.ok) return;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let waiting = false;
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        if (!read.value.includes("data:") || waiting) continue;
        waiting = true;
        setTimeout(() => {
          waiting = false;
          last = Date.now();
          if (!ending.aborted) show();
        }, Math.max(0, last + PAUSE - Date.now()));
      }
    } catch {
      if (ending.aborted) return;
      showState();
    }
    // The stream has an end of its own; a service that restarts is there again in a moment.
    await pause(2000);
  }
}

export function start(main) {
  const end = new AbortController();
  const root = document.getElementById("plots");
  sayTimes(main, Number(root?.dataset.span));
  if (root) plots(root, end.signal);
  list(document.getElementById("calls"), end.signal);
  document.getElementById("view").addEventListener("change", (event) => go(queryWith(event.target)));
  document.getElementById("view").addEventListener("submit", (event) => event.preventDefault());
  // The plots follow too, while nobody reads them closely.
  const renewal = setInterval(() => {
    const isRead = main.querySelector(":focus, tr.open, details[open], .plot:hover");
    if (isLive && !document.hidden && !isRead) reload();
  }, PLOTS);
  return () => {
    clearInterval(renewal);
    end.abort();
  };
}
