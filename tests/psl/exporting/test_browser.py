"""An exported file in a real browser, by onnxruntime-web."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import psl
from psl.exporting.onnx_export import export_onnx
from psl.weights.checkpoint import load_checkpoint
from tests import onnxruntime_web
from tests.needs import needs, program
from tests.psl.exporting.made import make_checkpoint, sounds

pytestmark = needs("onnxruntime-web")

PAGE = b"<!doctype html><title>psl</title>"
RUN = """
async ([model, batch]) => {
  const ort = await import("/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/";
  const session = await ort.InferenceSession.create(model);
  const bytes = await (await fetch("/waveform.bin")).arrayBuffer();
  const samples = new Float32Array(bytes);
  const shape = [batch, samples.length / batch];
  const waveform = new ort.Tensor("float32", samples, shape);
  const found = await session.run({waveform});
  return ["clip_probs", "frame_probs"].map(
    (name) => [found[name].dims, Array.from(found[name].data)]);
}
"""
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", "": "text/html"}


@contextlib.contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[str]:
    """A web server of these files; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            self.send_response(200 if name in files else 404)
            kind = TYPES.get(Path(name).suffix, "application/octet-stream")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(files.get(name, b""))))
            self.end_headers()
            self.wfile.write(files.get(name, b""))

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def test_a_browser_computes_what_pytorch_computes(tmp_path: Path) -> None:
    """A web page would show other sounds than the model that was evaluated."""
    playwright = pytest.importorskip("playwright.sync_api")
    files = {"": PAGE, **onnxruntime_web.contents()}
    wanted = {}
    for family, rate in [("mobilenetv2", 16000), ("mn", 32000)]:
        folder = make_checkpoint(tmp_path / family, family)
        export_onnx(load_checkpoint(folder), tmp_path / f"{family}.onnx")
        files[f"{family}.onnx"] = (tmp_path / f"{family}.onnx").read_bytes()
        wanted[family] = (psl.load(folder, device="cpu"), sounds(rate, 2, 1.3))
    with serve(files) as address, playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox"]
        )
        try:
            page = browser.new_page()
            page.goto(address)
            for family, (tagger, waveform) in wanted.items():
                files["waveform.bin"] = waveform.tobytes()
                found = page.evaluate(RUN, [f"/{family}.onnx", len(waveform)])
                for (shape, values), expected in zip(
                    found, tagger(waveform), strict=True
                ):
                    assert shape == list(expected.shape), json.dumps(shape)
                    difference = np.abs(np.reshape(values, shape) - expected)
                    assert difference.max() < 1e-3
        finally:
            browser.close()
