"""`python tests/support/screenshots.py FOLDER`: every kind of page in headless Chromium, as phone and laptop show it.

In light and in dark, all folds open: a picture of each under FOLDER, and exit code 1 where something is beyond the
screen, cut off, or too pale to read. Without a browser it says so, and that is all.
"""

import html
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runs import RUNS

from segattn_triton.perf.report.render import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
NO_BROWSER = f"no browser here, nothing was looked at: install chromium (one of {', '.join(BROWSERS)})"
WIDTHS = {"phone": 390, "laptop": 1366}
SCHEMES = {"light": 1, "dark": 0}  # Chromium's preferredColorScheme
HEIGHT = 2400  # of a picture, in pixels

LOOK = r"""
const wrong = [], width = innerWidth;
document.querySelectorAll("details").forEach(d => d.open = true);
const said = e => (e.className.baseVal ?? e.className) + " " + e.tagName + " " + e.textContent.trim().slice(0, 60);
if (document.documentElement.scrollWidth > width)
  wrong.push("the page is " + document.documentElement.scrollWidth + " pixels wide");
const rgb = c => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = rgb(c).map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = e => {
  for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if ((rgb(c)[3] ?? 1) > 0.5) return c;
  }
  return "rgb(255, 255, 255)";
};
const contrast = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};
for (const e of document.body.querySelectorAll("*")) {
  const box = e.getBoundingClientRect(), svg = e.closest("svg");
  if (!box.width || e.tagName === "SCRIPT") continue;
  if (svg) {
    const outer = svg.getBoundingClientRect();
    const out = box.right > outer.right + 2 || box.left < outer.left - 2 || box.bottom > outer.bottom + 2;
    if (e.tagName === "text" && out) wrong.push("cut off: " + said(e));
    if (e.tagName === "text" && /\\\w+\{/.test(e.textContent)) wrong.push("a formula, not its text: " + said(e));
    continue;
  }
  if (box.right > width + 1 && !(e.closest(".scroll") && !e.matches(".scroll")))
    wrong.push("beyond the screen: " + said(e));
  if ([...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) {
    const ratio = contrast(getComputedStyle(e).color, ground(e));
    if (ratio < 4.5) wrong.push("contrast " + ratio.toFixed(1) + ": " + said(e));
  }
}
parent.postMessage(JSON.stringify(wrong.slice(0, 20)), "*");
"""
FRAME = """<!doctype html><meta name="color-scheme" content="light dark">
<style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<pre id="said" hidden></pre>
<script>onmessage = m => {{ document.getElementById("said").textContent = m.data; }}</script>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe>"""


def browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def look(program: str, page: Path, picture: Path, width: int, scheme: int) -> list[str]:
    """What is wrong with a page in a window of this width; the picture of it."""
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{LOOK}</script></body>")
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(width=width, height=HEIGHT, page=html.escape(text)), encoding="utf-8")
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/u",
        ]
        command += [f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={max(width, 500)},{HEIGHT}"]
        command += ["--virtual-time-budget=10000"]
        run = dict(capture_output=True, text=True, timeout=300, check=True)
        dom = subprocess.run([*command, "--dump-dom", frame.as_uri()], **run).stdout
        subprocess.run([*command, f"--screenshot={picture}", frame.as_uri()], **run)
    said = html.unescape(dom.partition('<pre id="said"')[2].partition(">")[2].partition("</pre>")[0])
    return json.loads(said or '["the page did not load"]')


def main(folder: Path) -> int:
    if (program := browser()) is None:
        print(NO_BROWSER)
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name, make in RUNS.items():
        with tempfile.TemporaryDirectory() as out:
            make(Path(out))
            page = render(Path(out))
            for screen, width in WIDTHS.items():
                for scheme, number in SCHEMES.items():
                    picture = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{screen}-{scheme}.png"
                    found = look(program, page, picture.resolve(), width, number)
                    print(f"{picture}: {'as it should be' if not found else f'{len(found)} things are wrong'}")
                    print("".join(f"  {line}\n" for line in found), end="")
                    wrong += len(found)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
