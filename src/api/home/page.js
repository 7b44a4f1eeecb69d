// The pages without this script are complete; this adds copying, shows a key passed as #key=…
// (and takes the owner's from #admin=…), and lets the doctor examine the service.
(function () {
  "use strict";
  var byId = function (id) { return document.getElementById(id); };
  var live = byId("live");
  var timer;

  function say(text) {
    clearTimeout(timer);
    live.textContent = "";
    // A moment of emptiness makes screen readers repeat the same words.
    timer = setTimeout(function () {
      live.textContent = text;
      timer = setTimeout(function () { live.textContent = ""; }, 4000);
    }, 50);
  }

  function select(node) {
    var range = document.createRange();
    range.selectNodeContents(node);
    var selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return selection;
  }

  // Outside HTTPS and loopback the browser offers no navigator.clipboard.
  function copyBySelection(node) {
    var selection = select(node);
    var done = false;
    try { done = document.execCommand("copy"); } catch (error) { done = false; }
    if (done) { selection.removeAllRanges(); }
    return done;
  }

  function report(button, done) {
    say(document.body.getAttribute(done ? "data-copied" : "data-copy-failed"));
    if (!done) { return; }
    button.classList.add("done");
    setTimeout(function () { button.classList.remove("done"); }, 2000);
  }

  document.querySelectorAll("button[data-copy]").forEach(function (button) {
    var source = byId(button.getAttribute("data-copy"));
    button.hidden = false;
    button.addEventListener("click", function () {
      var fallback = function () { report(button, copyBySelection(source)); };
      if (!navigator.clipboard) { fallback(); return; }
      navigator.clipboard.writeText(source.textContent).then(function () { report(button, true); }, fallback);
    });
  });

  // Printable ASCII without quotes and backslashes only: it must stay inside the quotes of the shell command.
  function isKey(text) { return /^[!#-&(-[\]-~]{1,512}$/.test(text); }

  function takeKeys() {
    var given = new URLSearchParams(location.hash.slice(1).replace(/\+/g, "%2B"));
    var key = given.get("key") || "";
    var admin = given.get("admin") || "";
    if (!key && !admin) { return; }
    history.replaceState(null, "", location.pathname + location.search);
    if (isKey(key) && byId("key-row")) {
      byId("key-value").textContent = key;
      byId("curl-key").textContent = key;
      byId("key-row").hidden = false;
      byId("curl-note").hidden = true;
    }
    if (isKey(admin) && byId("doctor-key")) { byId("doctor-key").value = admin; }
  }

  // Each finding is text from the service, never markup.
  function finding(box, one) {
    var item = document.createElement("li");
    var add = function (name, text) {
      var node = document.createElement(name);
      node.textContent = text;
      item.appendChild(node);
      return node;
    };
    var level = add("span", box.getAttribute("data-" + one.status) || one.status);
    level.className = "badge " + { ok: "ok", warning: "degraded", broken: "down" }[one.status];
    add("code", one.check);
    add("p", one.seen);
    if (one.advice) { add("p", one.advice).className = "advice"; }
    return item;
  }

  function examine(box) {
    var key = byId("doctor-key");
    var state = byId("doctor-state");
    var list = byId("doctor-findings");
    var button = box.querySelector("button");
    var headers = key ? { Authorization: "Bearer " + key.value.trim() } : {};
    list.textContent = "";
    state.textContent = box.getAttribute("data-working");
    button.disabled = true;
    fetch("/api/doctor", { headers: headers, cache: "no-store" }).then(function (response) {
      return response.json();
    }).then(function (told) {
      if (!told.success) { throw new Error(told.error.message + ": " + told.error.hint); }
      state.textContent = "";
      told.findings.forEach(function (one) { list.appendChild(finding(box, one)); });
    }).catch(function (error) {
      state.textContent = box.getAttribute("data-failed") + " " + error.message;
    }).then(function () { button.disabled = false; });
  }

  var doctor = byId("doctor");
  if (doctor) {
    doctor.hidden = false;
    byId("doctor-form").addEventListener("submit", function (event) {
      event.preventDefault();
      examine(doctor);
    });
  }

  takeKeys();
  window.addEventListener("hashchange", takeKeys);
})();
