// What can be pointed at and switched. Without scripts every chart and table still stands.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (query, within = document) => [...within.querySelectorAll(query)];

  // Theme: the system's, light, dark, in turns.
  const THEMES = ["system", "light", "dark"];
  const theme = document.querySelector(".theme");
  const kept = (value) => {
    try { // storage may be forbidden to a page that was opened from a file
      if (value === undefined) return localStorage.getItem("viewmill-theme");
      localStorage.setItem("viewmill-theme", value);
    } catch { /* then it is forgotten */ }
    return null;
  };
  const dress = (name) => {
    if (name === "system") delete root.dataset.theme; else root.dataset.theme = name;
    theme.textContent = `Theme: ${name}`;
  };
  dress(THEMES.includes(kept()) ? kept() : "system");
  theme.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme || "system") + 1) % THEMES.length];
    dress(next);
    kept(next);
  });

  // A picture's title is read to those who cannot see it; as a hint of the browser it would cover the curves.
  for (const picture of all("svg[role=img]")) {
    const title = picture.querySelector("title");
    picture.setAttribute("aria-label", title.textContent);
    picture.setAttribute("aria-describedby", picture.querySelector("desc").id);
    picture.removeAttribute("aria-labelledby");
    title.remove();
  }

  // Runs and classes are switched on and off.
  for (const key of all(".toggle")) {
    key.addEventListener("click", () => {
      const shown = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", String(shown));
      const marks = key.dataset.run === undefined
        ? all(".dots", key.closest("figure")).filter((dots) => dots.dataset.name === key.dataset.name)
        : all(`svg [data-run="${key.dataset.run}"]`);
      for (const mark of marks) mark.classList.toggle("off", !shown);
    });
  }

  // Curves: the values of all of them at the pointer's step.
  const tip = document.querySelector(".tip");
  const place = (text) => {
    const size = Math.abs(text);
    if (text !== 0 && (size < 1e-3 || size >= 1e7)) return text.toExponential(2);
    return size >= 1000 ? Math.round(text).toLocaleString("en") : String(Number(text.toPrecision(4)));
  };
  const value = (at, span, log) => {
    const [low, high, begin, end] = span;
    const part = (at - begin) / (end - begin);
    return log ? 10 ** (Math.log10(low) + part * (Math.log10(high) - Math.log10(low))) : low + part * (high - low);
  };
  const points = (line) => (line.points ??= [...line.getAttribute("d").matchAll(/[ML]([\d.-]+) ([\d.-]+)/g)].map((found) => [+found[1], +found[2]]));
  const point = (event) => {
    const picture = event.currentTarget, box = picture.getBoundingClientRect();
    const across = picture.dataset.x.split(" ").map(Number), up = picture.dataset.y.split(" ").map(Number);
    const x = (event.clientX - box.left) / box.width * 400;
    let nearest = null;
    const rows = [];
    for (const line of all(".line:not(.off)", picture)) {
      let found = null;
      for (const each of points(line)) if (!found || Math.abs(each[0] - x) < Math.abs(found[0] - x)) found = each;
      if (!found) continue;
      rows.push([line, found]);
      if (!nearest || Math.abs(found[0] - x) < Math.abs(nearest[0] - x)) nearest = found;
    }
    if (!nearest) return;
    picture.querySelector(".cross").setAttribute("d", `M${nearest[0]} ${up[2]}V${up[3]}`);
    tip.replaceChildren();
    const head = document.createElement("div");
    head.textContent = `step ${Math.round(value(nearest[0], across, false)).toLocaleString("en")}`;
    tip.append(head);
    for (const [line, found] of rows.slice(0, 16)) {
      const row = document.createElement("div"), mark = document.createElement("i");
      mark.className = `swatch ${[...line.classList].filter((name) => /^s\d$|again/.test(name)).join(" ")}`;
      const number = value(found[1], up, picture.dataset.log === "1");
      row.append(mark, `${line.dataset.name}: ${picture.dataset.cent ? `${place(100 * number)} %` : place(number)}`);
      tip.append(row);
    }
    tip.hidden = false;
    const wide = tip.offsetWidth, room = root.clientWidth;
    const left = event.clientX + 14 + wide > room ? Math.max(4, event.clientX - 14 - wide) : event.clientX + 14;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${event.clientY + scrollY + 14}px`;
  };
  const leave = (event) => {
    tip.hidden = true;
    event.currentTarget.querySelector(".cross").removeAttribute("d");
  };
  for (const picture of all("svg[data-x]")) {
    picture.addEventListener("pointermove", point);
    picture.addEventListener("pointerdown", point);
    picture.addEventListener("pointerleave", leave);
  }

  // The map: the class of the dot that is pointed at.
  for (const map of all(".map")) {
    const picture = map.querySelector("svg"), under = map.querySelector(".under");
    const show = (name) => {
      picture.classList.toggle("pointing", name !== null);
      for (const dots of all(".dots", map)) dots.classList.toggle("hot", dots.dataset.name === name);
      under.textContent = name ?? "";
    };
    picture.addEventListener("pointerover", (event) => show(event.target.dataset?.name ?? null));
    picture.addEventListener("pointerleave", () => show(null));
    for (const key of all(".toggle", map)) {
      key.addEventListener("pointerenter", () => show(key.dataset.name));
      key.addEventListener("pointerleave", () => show(null));
    }
  }

  // A command can be copied; where the clipboard is closed, it is marked instead.
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Marked: press Ctrl-C";
      }
    });
  }
})();
