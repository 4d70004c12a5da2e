"use strict";
// What every page uses. Text from data goes into a page as text nodes only.
function el(name, props, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(props || {})) {
    if (key === "class") made.className = value;
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    made.append(child instanceof Node ? child : document.createTextNode(child));
  }
  return made;
}

// A click into ``box`` plays ``audio`` (of ``seconds``) from there, and ``cursor`` follows it.
function seekable(box, cursor, audio, seconds) {
  box.addEventListener("click", (event) => {
    const place = box.getBoundingClientRect();
    audio.currentTime = seconds * (event.clientX - place.left) / place.width;
    audio.play().catch(() => {});
  });
  followed(audio, () => {
    cursor.hidden = audio.paused && audio.currentTime === 0;
    cursor.style.left = `${100 * Math.min(1, audio.currentTime / seconds)}%`;
  });
}

// Calls ``draw`` while a sound plays, and whenever it starts, stops or jumps.
function followed(audio, draw) {
  const follow = () => {
    if (!audio.isConnected) return;
    draw();
    if (!audio.paused) requestAnimationFrame(follow);
  };
  for (const name of ["play", "pause", "seeked", "ended"]) audio.addEventListener(name, follow);
}

// A spectrogram of psl/serving/sounds.py: dark blue over red to light yellow.
function paint(canvas, found) {
  const bytes = Uint8Array.from(atob(found.data), (c) => c.charCodeAt(0));
  canvas.width = found.columns; canvas.height = found.rows;
  const context = canvas.getContext("2d"), image = context.createImageData(found.columns, found.rows);
  bytes.forEach((level, n) => {
    const x = level / 255;
    image.data.set([255 * Math.min(1, 1.6 * x), 255 * Math.max(0, 1.5 * x - 0.45),
      255 * (x < 0.5 ? 0.15 + 0.7 * x : Math.max(0.1, 0.9 - 0.9 * x)), 255], 4 * n);
  });
  context.putImageData(image, 0, 0);
}
