#!/usr/bin/env node
// What `npx` runs: finds the package with the program for this machine, and becomes as good as that
// program: same arguments, same streams, its exit code, and it gets the signals that this one gets.

"use strict";

const { spawn } = require("node:child_process");
const own = require("../package.json");

const extension = process.platform === "win32" ? ".exe" : "";
const wanted = `${own.name}-${process.platform}-${process.arch}`;

function program() {
  try {
    return require.resolve(`${wanted}/bin/mirrorgate${extension}`);
  } catch {
    const there = Object.keys(own.optionalDependencies).join(", ");
    console.error(`error: the package ${wanted} is missing`);
    console.error(`hint: there are ${there}; install with optional dependencies, or build mirrorgate from its source`);
    process.exit(1);
  }
}

const child = spawn(program(), process.argv.slice(2), { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => child.kill(signal));
}
child.on("error", (error) => {
  console.error(`error: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) => {
  if (signal === null) process.exit(code);
  // Whoever waits for this process should see the same end.
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
