// Saves a draft while it is written: a moment after the last change, by the same address as the button "Save the draft".
// Without this file the button does it.
"use strict";
(function () {
  const form = document.getElementById("draft");
  const saved = document.getElementById("saved");
  if (!form || !saved) return;
  let timer = 0;
  let sending = false;

  async function save() {
    if (sending) {
      timer = window.setTimeout(save, 1000);
      return;
    }
    sending = true;
    try {
      const answer = await fetch(form.dataset.save, {
        method: "POST",
        body: new FormData(form),
        headers: { "X-Requested-With": "fetch" },
        credentials: "same-origin",
      });
      if (answer.ok && !answer.redirected) {
        const told = await answer.json();
        saved.textContent = form.dataset.saved.replace("{time}", told.saved);
      }
    } catch (error) {
      saved.textContent = "";  // offline: nothing is said to be saved; the next change tries again
    } finally {
      sending = false;
    }
  }

  form.addEventListener("input", function () {
    window.clearTimeout(timer);
    timer = window.setTimeout(save, 2000);
  });
})();
