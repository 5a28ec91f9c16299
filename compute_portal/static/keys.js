// A list by keyboard: j and k go down and up, Enter opens (the browser does that), n the next page, g the first one.
// The list works without: every row is a link that Tab reaches.
"use strict";
(() => {
  const links = [...document.querySelectorAll("[data-keys] tbody th a")];
  const told = document.querySelector("[data-keys-told]");
  if (told) told.hidden = false;

  const move = (step) => {
    const here = links.indexOf(document.activeElement);
    const there = here < 0 ? (step > 0 ? 0 : links.length - 1) : here + step;
    if (links[there]) {
      links[there].focus();
      links[there].scrollIntoView({ block: "nearest" });
    }
  };

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else {
      const link = /^[a-z]$/.test(event.key) && document.querySelector(`[data-key="${event.key}"]`);
      if (!link) return;
      link.click();
    }
    event.preventDefault();
  });
})();
