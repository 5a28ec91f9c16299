// Saves a draft while it is written: a moment after the last change, by the same address as the button "Save the draft".
// Without this file the button does it.
"use strict";
(function () {
  const form = document.getElementById("draft");
  const saved = document.getElementById("saved");
  if (!form || !saved) return;
  let timer = 0;
  let sending = null;

  async function save() {
    if (sending !== null) {
      timer = window.setTimeout(save, 1000);
      return;
    }
    sending = new AbortController();
    try {
      const answer = await fetch(form.dataset.save, {
        method: "POST",
        body: new FormData(form),
        headers: { "X-Requested-With": "fetch" },
        credentials: "same-origin",
        signal: sending.signal,
      });
      if (answer.ok && !answer.redirected) {
        const told = await answer.json();
        saved.textContent = form.dataset.saved.replace("{time}", told.saved);
      }
    } catch (error) {
      saved.textContent = "";  // offline: nothing is said to be saved; the next change tries again
    } finally {
      sending = null;
    }
  }

  // Sending the form says all of it: a save that comes after it would be told that this is no draft any more.
  form.addEventListener("submit", function () {
    window.clearTimeout(timer);
    if (sending !== null) sending.abort();
  });

  form.addEventListener("input", function () {
    window.clearTimeout(timer);
    timer = window.setTimeout(save, 2000);
  });
})();
