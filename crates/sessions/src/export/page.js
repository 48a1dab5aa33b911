"use strict";
(() => {
  const failures = document.querySelector(".filter");
  const none = document.querySelector(".none");
  failures.hidden = false;
  failures.addEventListener("click", () => {
    const on = failures.getAttribute("aria-pressed") !== "true";
    failures.setAttribute("aria-pressed", String(on));
    document.querySelector(".timeline").classList.toggle("failures", on);
    none.hidden = !on || document.querySelector(".item.failed") !== null;
  });

  // How long nothing may happen while idle time is skipped, in milliseconds.
  const IDLE = 2000;
  // Every so many frames the whole screen is remembered, so that going back is quick.
  const KEY = 200;
  // Who wants less motion sees a still picture twice a second, instead of each change.
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const minutes = (ms) => Math.floor(ms / 60000) + ":" + String(Math.floor(ms / 1000) % 60).padStart(2, "0");

  function player(figure) {
    const film = JSON.parse(figure.querySelector(".film").textContent);
    const get = (name) => figure.querySelector("." + name);
    const [rows, controls, play, seek, clock, speed, idle] =
      ["rows", "controls", "play", "seek", "clock", "speed", "idle"].map(get);
    const frames = film.frames;
    const end = Math.max(film.duration, 1);
    const keys = [];
    let shown = [], cursorRow = null, size = [80, 24], at = -1, now = 0, playing = false, last = 0, drawn = 0;

    // What each key frame shows: the line of every row.
    let state = [];
    frames.forEach((frame, nth) => {
      if (frame.s) { state = new Array(frame.s[1]).fill(-1); size = frame.s; }
      for (let i = 0; i < frame.r.length; i += 2) state[frame.r[i]] = frame.r[i + 1];
      if (nth % KEY === 0) keys.push({ state: state.slice(), size });
    });

    function line(element, index) {
      element.textContent = "";
      const pieces = film.lines[index] || [];
      for (let i = 0; i < pieces.length; i += 3) {
        const style = film.styles[pieces[i + 1]], span = document.createElement("span");
        span.textContent = pieces[i];
        let front = style.f, back = style.b;
        if (style.a.includes("v")) [front, back] = [back || "var(--screen)", front || "var(--screen-ink)"];
        if (front) span.style.color = front;
        if (back) span.style.backgroundColor = back;
        for (const attribute of style.a) span.classList.add(attribute);
        // Wide characters keep their two columns, whatever font they come from.
        if (pieces[i + 2]) { span.classList.add("w"); span.style.width = pieces[i + 2] + "ch"; }
        element.append(span);
      }
    }

    function draw(lines, shape, cursor) {
      if (rows.childElementCount !== lines.length) {
        rows.replaceChildren(...lines.map(() => document.createElement("div")));
        shown = [];
      }
      rows.style.minWidth = shape[0] + "ch";
      lines.forEach((index, row) => {
        if (shown[row] !== index) line(rows.children[row], index);
      });
      shown = lines.slice();
      if (cursorRow !== null) rows.children[cursorRow]?.classList.remove("cursor");
      cursorRow = cursor ? cursor[1] : null;
      if (cursor && rows.children[cursor[1]]) {
        rows.children[cursor[1]].classList.add("cursor");
        rows.children[cursor[1]].style.setProperty("--col", cursor[0]);
      }
    }

    // Shows the last frame that is not after `ms`.
    function show(ms) {
      let low = 0, high = frames.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (frames[middle].t <= ms) low = middle + 1; else high = middle;
      }
      const wanted = Math.max(low - 1, 0);
      if (wanted !== at && frames.length) {
        const key = keys[Math.floor(wanted / KEY)];
        let lines = key.state.slice(), shape = key.size;
        for (let nth = Math.floor(wanted / KEY) * KEY + 1; nth <= wanted; nth++) {
          const frame = frames[nth];
          if (frame.s) { lines = new Array(frame.s[1]).fill(-1); shape = frame.s; }
          for (let i = 0; i < frame.r.length; i += 2) lines[frame.r[i]] = frame.r[i + 1];
        }
        at = wanted;
        draw(lines, shape, frames[at].c);
      }
      seek.value = ms;
      seek.setAttribute("aria-valuetext", minutes(ms) + " of " + minutes(end));
      clock.textContent = minutes(ms);
    }

    function go(ms) { now = Math.min(Math.max(ms, 0), end); show(now); }

    function pause(on) {
      playing = !on;
      play.textContent = playing ? "❚❚" : "▶";
      play.setAttribute("aria-label", playing ? "Pause" : "Play");
      if (playing) {
        if (now >= end) go(0);
        last = performance.now();
        requestAnimationFrame(tick);
      }
    }

    function tick(time) {
      if (!playing) return;
      let to = now + Math.max(time - last, 0) * Number(speed.value);
      last = time;
      const next = frames[at + 1];
      if (idle.checked && next && next.t - Math.max(frames[at].t, 0) > IDLE && to - frames[at].t > IDLE) to = Math.max(to, next.t);
      if (!calm || time - drawn > 500 || to >= end) { drawn = time; go(to); } else { now = to; }
      if (now >= end) pause(true); else requestAnimationFrame(tick);
    }

    function key(event) {
      const keys = {
        " ": () => pause(playing),
        ArrowLeft: () => go(now - 5000),
        ArrowRight: () => go(now + 5000),
        Home: () => go(0),
        End: () => go(end),
        ".": () => { pause(true); if (frames[at + 1]) go(frames[at + 1].t); },
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    }

    seek.max = end;
    get("total").textContent = minutes(end);
    controls.hidden = false;
    play.addEventListener("click", () => pause(playing));
    seek.addEventListener("input", () => go(Number(seek.value)));
    get("screen").addEventListener("keydown", key);
    // At rest, the last screen tells most. Nothing moves until somebody plays it.
    go(end);
  }

  document.querySelectorAll(".player").forEach(player);
})();
