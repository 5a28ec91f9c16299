// The calendar: choose a window by arrow keys, two clicks or drawing over hours, and see it renewed while it is open.
// Without this file every cell is a link that does the same in two steps.
"use strict";
(() => {
  const table = document.querySelector("[data-calendar]");
  if (!table) return;
  const told = document.querySelector("[data-told]");
  for (const hint of document.querySelectorAll("[data-with-script]")) hint.classList.remove("invisible");

  const cells = () => [...table.querySelectorAll("td > [data-at]")];
  const links = () => cells().filter((cell) => cell.matches("a"));
  const say = (text, start) => {
    if (told && text) told.textContent = text.replace("{start}", start ? start.dataset.at.slice(5) : "");
  };

  // -- choosing

  const book = table.dataset.book;
  const longest = Number(table.dataset.longest || 0);
  let start = null; // the time of the first hour, as in data-at
  let drawn = false;
  const byTime = () => cells().sort((one, other) => (one.dataset.at < other.dataset.at ? -1 : 1));
  const at = (name) => cells().find((cell) => cell.dataset.at === name);
  const hourAfter = (name) => {
    const next = new Date(`${name.replace(" ", "T")}:00Z`); // only to count: the zone is the same on both sides
    next.setUTCHours(next.getUTCHours() + 1);
    return next.toISOString().slice(0, 16).replace("T", " ");
  };
  const between = (first, last) =>
    byTime().filter((cell) => cell.dataset.at >= first && cell.dataset.at <= last);

  const mark = (last) => {
    for (const cell of table.querySelectorAll(".pick")) cell.classList.remove("pick");
    if (start === null) return;
    for (const cell of between(start, last && last.dataset.at >= start ? last.dataset.at : start)) {
      if (cell.matches("a")) cell.classList.add("pick");
    }
  };

  const begin = (cell, text) => {
    start = cell.dataset.at;
    mark(cell);
    say(text, cell);
  };

  // The first choice is the start, the second the last hour: with both the form opens.
  const choose = (cell) => {
    if (start === null || cell.dataset.at < start) return begin(cell, told && told.dataset.from);
    const window = between(start, cell.dataset.at);
    if (window.some((hour) => !hour.matches("a")) || window.length > longest) {
      return begin(cell, told && told.dataset.gap);
    }
    location.assign(
      `${book}&starts_at=${encodeURIComponent(start)}&ends_at=${encodeURIComponent(hourAfter(cell.dataset.at))}`,
    );
  };

  if (book && !table.querySelector("a.pick")) {
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td > a[data-at]");
      if (!cell || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      if (drawn) drawn = false;
      else choose(cell);
    });
    table.addEventListener("dragstart", (event) => event.preventDefault()); // a link would be carried away
    table.addEventListener("pointerdown", (event) => {
      const cell = event.target.closest("td > a[data-at]");
      if (!cell || event.pointerType !== "mouse" || event.button !== 0) return; // a finger scrolls
      const from = cell;
      let last = cell;
      const over = (moved) => {
        const under = moved.target.closest && moved.target.closest("td > a[data-at]");
        if (!under || under === last) return;
        if (last === from) begin(from, told && told.dataset.from);
        last = under;
        mark(last);
      };
      const up = () => {
        table.removeEventListener("pointerover", over);
        document.removeEventListener("pointerup", up);
        if (last === from) return; // a click
        drawn = true;
        choose(last);
        window.setTimeout(() => (drawn = false), 0);
      };
      table.addEventListener("pointerover", over);
      document.addEventListener("pointerup", up);
    });
    table.addEventListener("pointerover", (event) => {
      const cell = event.target.closest("td > a[data-at]");
      if (cell && start !== null) mark(cell);
    });
  }

  // -- by keyboard: Tab enters and leaves the table, the arrows go from hour to hour

  const rove = (cell) => {
    for (const link of links()) link.tabIndex = link === cell ? 0 : -1;
  };
  if (links().length) rove(links()[0]);
  table.addEventListener("focusin", (event) => {
    if (event.target.matches("td > a[data-at]")) rove(event.target);
  });
  table.addEventListener("keydown", (event) => {
    const here = event.target.closest("td > a[data-at]");
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape" && start !== null) {
      start = null;
      mark();
      say(told && told.dataset.none);
      return;
    }
    if (!here || !step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    let row = here.closest("tr").rowIndex;
    let column = here.closest("td").cellIndex;
    const days = here.closest("tr").cells.length;
    for (;;) {
      row += step[0];
      column += step[1];
      // Below the last hour of a day comes the first of the next one.
      if (step[0] && row >= table.rows.length) [row, column] = [1, column + 1];
      else if (step[0] && row < 1) [row, column] = [table.rows.length - 1, column - 1];
      if (column < 0 || column >= days) return;
      const cell = table.rows[row] && table.rows[row].cells[column];
      const link = cell && cell.querySelector("a[data-at]");
      if (link && link.parentElement.tagName === "TD") {
        link.focus();
        mark(start === null ? null : link);
        return;
      }
      if (!cell) return;
    }
  });

  // -- renewed in place: the cells keep their size, so nothing moves

  const renew = async () => {
    if (document.visibilityState !== "visible") return;
    let text;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      if (!answer.ok) return;
      text = await answer.text();
    } catch {
      return; // offline or signed out: what is shown says as of when it is
    }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const focused = document.activeElement && document.activeElement.dataset.at;
    for (const cell of cells()) {
      const now = fresh.querySelector(`[data-calendar] td > [data-at="${cell.dataset.at}"]`);
      if (!now) continue;
      for (const [old, other] of rowPairs(cell, now)) old.replaceWith(document.importNode(other, true));
    }
    const stamp = fresh.querySelector("[data-as-of]");
    const shown = document.querySelector("[data-as-of]");
    if (stamp && shown) shown.textContent = stamp.textContent;
    mark(start === null ? null : at(start));
    const again = focused ? at(focused) : null;
    rove(again || links()[0]);
    if (again) again.focus({ preventScroll: true });
  };
  // The cell itself; in the table of one day also the numbers beside it.
  const rowPairs = (cell, now) => {
    const pairs = [[cell, now]];
    if (!table.matches(".cal-day")) return pairs;
    const [mine, theirs] = [cell.closest("tr").cells, now.closest("tr").cells];
    if (mine.length === theirs.length) {
      for (let n = 2; n < mine.length; n += 1) pairs.push([mine[n].firstElementChild, theirs[n].firstElementChild]);
    }
    return pairs.filter(([one, other]) => one && other);
  };
  window.setInterval(renew, Number(table.dataset.refresh) * 1000);
  document.addEventListener("calendar:renew", renew);
})();
