// Tests of the page in Chromium. See `check`.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

const require = createRequire(process.env.MODULES + "/");
const puppeteer = require("puppeteer-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const LONG = 60_000;

let browser;
before(async () => {
  const args = ["--no-sandbox", "--disable-gpu"];
  browser = await (puppeteer.default ?? puppeteer).launch({ executablePath: process.env.CHROMIUM, args, headless: true });
});
after(() => browser.close());

// Starts the service, and returns it with its address.
async function serve() {
  const program = spawn(process.env.SCENARIO, ["page"], { stdio: ["pipe", "pipe", "ignore"] });
  for await (const line of createInterface({ input: program.stdout })) {
    return { program, address: "http://" + line.replace("ready ", "") };
  }
  throw new Error("the service has ended");
}

// Opens the page of a service, notes what goes wrong in it, and waits for its data.
async function open(service, { scheme = "light", width = 1280, height = 900, prepare = async () => {} } = {}) {
  const page = await browser.newPage();
  const wrong = [];
  const requests = [];
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => wrong.push(message.text()));
  page.on("request", (request) => requests.push(request.url()));
  page.setDefaultTimeout(LONG);
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await prepare(page);
  await page.goto(service.address + "/", { waitUntil: "domcontentloaded" });
  await page.waitForSelector("#tasks tbody tr button");
  await page.waitForSelector("#children tbody tr");
  return { page, wrong, requests };
}

const text = (page, selector) => page.$eval(selector, (found) => found.innerText);

// Waits until the page has shown another state.
async function nextState(page) {
  const now = await text(page, "#about");
  await page.waitForFunction((before) => document.getElementById("about").innerText !== before, {}, now);
}

async function end(service) {
  service.program.kill("SIGKILL");
}

async function violations(page) {
  await page.evaluate(AXE);
  const rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];
  const found = await page.evaluate((rules) => axe.run({ runOnly: rules }), rules);
  assert.ok(found.passes.length > 20);
  return found.violations.map((one) => one.id + ": " + one.help + " " + one.nodes.map((node) => node.html.slice(0, 200)).join(" "));
}

test("sections come in the order in which an operator looks, with what is wrong", async () => {
  const service = await serve();
  const { page, wrong, requests } = await open(service);
  const titles = await page.$$eval("h2", (found) => found.filter((one) => one.offsetParent).map((one) => one.firstChild.textContent.trim()));
  assert.deepEqual(titles, ["Processes", "Endpoints", "Groups and their tasks", "Live tasks", "Threads"]);
  const children = await text(page, "#children");
  assert.match(children, /process\/mailer\s+backoff[^]*exited with code 7/);
  const endpoints = await text(page, "#endpoints");
  assert.match(endpoints, /cache\s+down[^]*connection refused/);
  assert.match(await text(page, "#groups"), /connection\s+10,000/);
  assert.match(await text(page, "#tasks-count"), /showing 50 of 10,00\d/);
  assert.match(await text(page, "#connection"), /live/);
  await page.click("#more");
  await page.waitForFunction(() => document.querySelectorAll("#tasks tbody tr").length > 150);
  for (const request of requests) assert.ok(request.startsWith(service.address), request);
  assert.deepEqual(wrong, []);
  await page.close();
  await end(service);
});

test("output is text, is not markup, and is shown when it is asked for", async () => {
  const service = await serve();
  const { page, wrong } = await open(service);
  await page.evaluate(() => [...document.querySelectorAll("#children button")].find((button) => button.innerText === "process/web").click());
  const shown = await text(page, "#children pre");
  assert.match(shown, /listening on <b id="injected">8080<\/b>/);
  assert.match(shown, /program +orders-web/);
  assert.equal(await page.$("#injected"), null);
  await nextState(page);
  assert.equal(await text(page, "#children pre"), shown.replace(/up .*/, (await text(page, "#children pre")).match(/up .*/)[0]));
  assert.deepEqual(wrong, []);
  await page.close();
  await end(service);
});

test("all of it can be reached with the keyboard, and an update does not move the focus", async () => {
  const service = await serve();
  const { page } = await open(service);
  const focus = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.name);
  await page.keyboard.press("Tab");
  assert.equal(await focus(), "Skip to the content");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.equal(await focus(), "process/db");
  await page.keyboard.press("Enter");
  assert.match(await text(page, "#children pre"), /ready to accept connections/);
  await nextState(page);
  await nextState(page);
  assert.equal(await focus(), "process/db");
  assert.equal(await page.$eval("#children button", (button) => button.ariaExpanded), "true");
  await page.keyboard.press("/");
  assert.equal(await focus(), "group");
  await page.keyboard.type("jobs");
  await page.waitForFunction(() => document.querySelectorAll("#tasks tbody tr:not([hidden]) button").length === 1);
  assert.match(await text(page, "#tasks"), /jobs\/flush/);
  await page.close();
  await end(service);
});

test("chains and stacks are read when they are asked for", async () => {
  const service = await serve();
  const { page } = await open(service);
  assert.equal(await page.$eval("#threads button", (button) => button.disabled), true);
  await page.click("button.dump");
  await page.waitForFunction(() => document.querySelector(".dump-note").innerText.startsWith("as of"));
  await page.waitForFunction(() => [...document.querySelectorAll("#threads button")].some((button) => !button.disabled));
  await page.evaluate(() => [...document.querySelectorAll("#threads button")].find((button) => !button.disabled).click());
  assert.match(await text(page, "#threads pre"), /^ ?0 {2}|waiting|blocked/m);
  assert.deepEqual(await violations(page), []);
  await page.close();
  await end(service);
});

test("axe-core finds nothing, in light and dark and on a phone, which does not scroll sideways", async () => {
  const service = await serve();
  for (const options of [{}, { scheme: "dark" }, { width: 390, height: 800 }]) {
    const { page } = await open(service, options);
    await page.click("#children button");
    assert.deepEqual(await violations(page), [], JSON.stringify(options));
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, JSON.stringify(options) + ": " + overflow);
    await page.close();
  }
  await end(service);
});

test("without a stream the page polls", async () => {
  const service = await serve();
  const prepare = async (page) => {
    await page.setRequestInterception(true);
    page.on("request", (request) => (request.url().endsWith("/api/events") ? request.respond({ status: 503 }) : request.continue()));
  };
  const { page } = await open(service, { prepare });
  await page.waitForFunction(() => document.getElementById("connection").innerText === "every 2 s");
  await nextState(page);
  assert.match(await text(page, "#children"), /backoff/);
  await page.close();
  await end(service);
});

test("a hidden page holds no stream, and goes on when it is shown", async () => {
  const service = await serve();
  const { page } = await open(service);
  const hide = (hidden) => page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  assert.equal(await page.evaluate(() => source), null);
  await hide(false);
  await nextState(page);
  assert.equal(await text(page, "#connection"), "live");
  assert.deepEqual(await violations(page), []);
  await page.close();
  await end(service);
});

test("a shutdown is a timeline that names what is late, and its end is said", async () => {
  const service = await serve();
  const { page } = await open(service);
  assert.equal(await page.$eval("#stopping", (section) => section.hidden), true);
  service.program.kill("SIGTERM");
  // The stop reaches each of them at its own moment.
  await page.waitForFunction(() => {
    const late = document.getElementById("late-rows").innerText;
    return late.includes("after SIGTERM") && late.includes("draining") && !late.includes("process/web");
  });
  assert.match(await text(page, "#reason"), /SIGTERM/);
  assert.match(await text(page, "#timeline"), /drain[^]*of 1 min 0 s[^]*cancel\s+not begun, budget 1 min 0 s[^]*close/);
  const late = await text(page, "#late-rows");
  assert.match(late, /process\/db \(pid \d+\)\s+[\d.]+ m?s after SIGTERM/);
  assert.match(late, /jobs\/flush\s+draining/);
  assert.doesNotMatch(late, /process\/web/);
  assert.match(await text(page, "#children"), /process\/web\s+stopped/);
  assert.deepEqual(await violations(page), []);
  service.program.stdin.end();
  await page.waitForFunction(() => document.getElementById("problem").innerText.includes("it has probably ended"));
  await page.close();
  await end(service);
});

// A figure, and no assertion: it depends on the machine.
test("the first paint with 10,000 tasks is measured", async (context) => {
  const service = await serve();
  const times = [];
  for (let round = 0; round < 3; round++) {
    const { page } = await open(service, {
      prepare: (page) =>
        page.evaluateOnNewDocument(() => {
          new MutationObserver((_, observer) => {
            if (!document.querySelector("#tasks tbody tr button") || !document.querySelector("#children tbody tr button")) return;
            observer.disconnect();
            requestAnimationFrame(() => (window.filled = performance.now()));
          }).observe(document, { childList: true, subtree: true });
        }),
    });
    await page.waitForFunction(() => window.filled);
    times.push(await page.evaluate(() => [performance.getEntriesByName("first-contentful-paint")[0].startTime, window.filled]));
    await page.close();
  }
  const median = (place) => times.map((time) => Math.round(time[place])).sort((one, other) => one - other)[1];
  context.diagnostic("median of 3: first paint after " + median(0) + " ms, all tables filled after " + median(1) + " ms");
  await end(service);
});
