"use strict";
(() => {
  const page = document.getElementById("page");
  let model = null, url = null, recorder = null, turn = 0;

  const about = el("p", {class: "soft", id: "about"});
  const problem = el("p", {class: "problem", role: "alert", id: "problem"});
  const state = el("p", {class: "soft", id: "state"});
  const result = el("section", {id: "result"});
  const file = el("input", {type: "file", id: "file", "aria-label": "a sound file"});
  const record = el("button", {type: "button", id: "record"}, "Record");
  const drop = el("div", {class: "drop", id: "drop"},
    el("p", {}, "Drop a sound here, choose a file, or record one."),
    el("div", {class: "tools"}, file, record));

  async function send(blob, name) {
    const mine = ++turn;
    problem.textContent = "";
    result.replaceChildren();
    if (blob.size > model.max_bytes) {
      problem.textContent = `${name}: longer than ${model.max_bytes >> 20} MiB; psl tag takes any length.`;
      return;
    }
    state.textContent = `${name}: listening ...`;
    try {
      const answer = await fetch("sound", {method: "POST", body: blob});
      const found = await answer.json();
      if (mine !== turn) return;
      state.textContent = "";
      if (!answer.ok) { problem.textContent = `${name}: ${found.error}`; return; }
      show(found, blob, name);
    } catch (error) {
      if (mine !== turn) return;
      state.textContent = "";
      problem.textContent = "psl demo has ended; start it again.";
    }
  }

  function show(found, blob, name) {
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(blob);
    const audio = el("audio", {controls: true, src: url, id: "audio"});
    const numbers = [];
    const strip = (kind, draw, label) => {
      const canvas = el("canvas", {"aria-label": label}), cursor = el("div", {class: "cursor", hidden: true});
      draw(canvas);
      const made = el("div", {class: `strip ${kind}`}, canvas, cursor);
      seekable(made, cursor, audio, found.seconds);
      return made;
    };
    const rows = found.classes.map((c) => {
      const best = Math.max(...c.probs), number = el("span", {class: "number"}, best.toFixed(2));
      numbers.push([number, c.probs, best]);
      return el("div", {class: "row"}, el("bdi", {class: "name"}, c.name),
        strip("", (canvas) => heat(canvas, found, c.probs), `${c.name} over time`), number);
    });
    result.replaceChildren(
      el("p", {}, el("bdi", {}, name), `: ${found.seconds.toFixed(1)} s`,
        found.is_cut ? ` (the first ${model.max_seconds / 60} minutes)` : ""),
      el("div", {class: "row"}, el("span", {class: "soft"}, "spectrogram"),
        strip("tall", (canvas) => paint(canvas, found.spectrogram), "spectrogram"), el("span", {})),
      ...rows, audio);
    audio.addEventListener("error", () => {
      audio.replaceWith(el("p", {class: "soft"}, "This browser does not play this kind of file."));
    });
    followed(audio, () => {
      const t = audio.currentTime, k = found.starts.findLastIndex((s, n) => s <= t && t <= found.ends[n]);
      for (const [number, probs, best] of numbers)
        number.textContent = (audio.paused && t === 0 ? best : k < 0 ? 0 : probs[k]).toFixed(2);
    });
  }

  // A column for each moment: the mean of the windows that cover it.
  function heat(canvas, found, probs) {
    const width = 600, sums = new Float64Array(width), counts = new Float64Array(width);
    probs.forEach((p, n) => {
      const from = Math.floor(width * found.starts[n] / found.seconds);
      const to = Math.max(from + 1, Math.ceil(width * Math.min(1, found.ends[n] / found.seconds)));
      for (let x = from; x < Math.min(to, width); x++) { sums[x] += p; counts[x] += 1; }
    });
    canvas.width = width; canvas.height = 1;
    const context = canvas.getContext("2d");
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--heat");
    for (let x = 0; x < width; x++) {
      context.fillStyle = `rgba(${colour}, ${counts[x] ? sums[x] / counts[x] : 0})`;
      context.fillRect(x, 0, 1, 1);
    }
  }
  // What a browser records (WebM or MP4) is decoded by the browser itself, to WAV.
  async function toWav(blob) {
    const context = new AudioContext();
    try {
      const sound = await context.decodeAudioData(await blob.arrayBuffer());
      const samples = sound.getChannelData(0), data = new DataView(new ArrayBuffer(44 + 2 * samples.length));
      const text = (at, word) => [...word].forEach((c, n) => data.setUint8(at + n, c.charCodeAt(0)));
      text(0, "RIFF"); data.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
      data.setUint32(16, 16, true); data.setUint16(20, 1, true); data.setUint16(22, 1, true);
      data.setUint32(24, sound.sampleRate, true); data.setUint32(28, 2 * sound.sampleRate, true);
      data.setUint16(32, 2, true); data.setUint16(34, 16, true);
      text(36, "data"); data.setUint32(40, 2 * samples.length, true);
      samples.forEach((s, n) => data.setInt16(44 + 2 * n, 32767 * Math.max(-1, Math.min(1, s)), true));
      return new Blob([data], {type: "audio/wav"});
    } finally { context.close(); }
  }
  record.addEventListener("click", async () => {
    if (recorder) { recorder.stop(); return; }
    problem.textContent = "";
    try {
      const stream = await navigator.mediaDevices.getUserMedia(
        {audio: {echoCancellation: false, noiseSuppression: false, autoGainControl: false}});
      const parts = [];
      recorder = new MediaRecorder(stream);
      recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
      recorder.addEventListener("stop", async () => {
        stream.getTracks().forEach((track) => track.stop());
        recorder = null;
        record.textContent = "Record"; record.className = "";
        state.textContent = "";
        try { send(await toWav(new Blob(parts)), "recording"); }
        catch (error) { problem.textContent = "The recording is empty, or cannot be read."; }
      });
      recorder.start();
      record.textContent = "Stop"; record.className = "on";
      state.textContent = "recording ...";
    } catch (error) {
      recorder = null;
      problem.textContent = `No microphone: ${error.message}`;
    }
  });
  file.addEventListener("change", () => { if (file.files[0]) send(file.files[0], file.files[0].name); });
  for (const name of ["dragover", "dragenter"])
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const dropped = event.dataTransfer.files[0];
    if (dropped) send(dropped, dropped.name);
  });

  (async () => {
    page.append(el("h1", {}, "Try a tagger"), about, drop, problem, state, result);
    try {
      model = await (await fetch("model")).json();
      about.append(el("bdi", {}, model.name), `: ${model.num_classes} classes, windows of ${model.window} s every ` +
        `${model.hop} s. Nothing leaves this machine.`);
    } catch (error) { problem.textContent = "psl demo has ended; start it again."; }
  })();
})();
