// Runs before the page is drawn, so that nothing jumps: the language that was chosen before, and whether
// this tab is signed in.
(() => {
  const root = document.documentElement;
  const url = new URL(location.href);
  try {
    if (url.searchParams.has("lang")) {
      localStorage.setItem("mirrorgate.lang", root.lang);
    } else {
      const kept = localStorage.getItem("mirrorgate.lang");
      if (kept && kept !== root.lang) {
        url.searchParams.set("lang", kept);
        location.replace(url);
      }
    }
  } catch {
    // A browser that keeps nothing still shows pages.
  }
  const signedIn = sessionStorage.getItem("mirrorgate.token") || location.hash.startsWith("#admin=");
  root.classList.add(signedIn || "open" in root.dataset ? "in" : "out");
})();
