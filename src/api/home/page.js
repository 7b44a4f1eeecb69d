// The pages without this script are complete; this adds copying, and shows a key passed as #key=….
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
    if (given.get("admin")) {
      // Links of earlier versions led here.
      location.replace("/console" + location.hash);
      return;
    }
    if (!key) { return; }
    history.replaceState(null, "", location.pathname + location.search);
    if (isKey(key) && byId("key-row")) {
      byId("key-value").textContent = key;
      byId("curl-key").textContent = key;
      byId("key-row").hidden = false;
      byId("curl-note").hidden = true;
    }
  }

  takeKeys();
  window.addEventListener("hashchange", takeKeys);
})();
