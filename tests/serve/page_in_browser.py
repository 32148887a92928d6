"""The page of a live server in headless Chromium, used as a person would: draw, clear, pick, watch the live figures;
also on a phone's width and in dark mode, with a silent console.

page_in_browser.py URL NAME_OF_FIRST [SHOT.png]: NAME_OF_FIRST is what the model says of the first image. It speaks
the Chrome DevTools Protocol over --remote-debugging-pipe: JSON messages that end with a zero byte, on descriptors 3
and 4."""
import base64
import json
import os
import subprocess
import sys
import tempfile
import time

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--remote-debugging-pipe"]


class Browser:
    def __init__(self, profile):
        self.to, theirs_in = self.pipe_from_us()
        self.back, theirs_out = self.pipe_to_us()

        def place():  # duplicates are inherited, whatever number they had before
            low, high = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(low, 3)
            os.dup2(high, 4)

        self.process = subprocess.Popen(["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                                        preexec_fn=place, close_fds=False, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.rest, self.complaints, self.session = 0, b"", [], None
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    @staticmethod
    def pipe_from_us():
        theirs, ours = os.pipe()
        return ours, theirs

    @staticmethod
    def pipe_to_us():
        return os.pipe()

    def receive(self):
        while b"\0" not in self.rest:
            more = os.read(self.back, 1 << 16)
            assert more, "the browser has ended"
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            got = self.receive()
            if got.get("id") == self.number:
                assert "error" not in got, (method, got["error"])
                return got["result"]
            if got.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                self.complaints.append(json.dumps(got["params"])[:500])

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]
        return result.get("value")

    def wait(self, expression, seconds=15):
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}\n{self.value('document.body.innerText')}"
            time.sleep(0.05)

    def mouse(self, kind, x, y):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"),
                  clickCount=1)

    def box(self, selector):
        return self.value(f"(e => [e.x, e.y, e.width, e.height])(document.querySelector('{selector}')"
                          ".getBoundingClientRect())")

    def click(self, selector):
        x, y, width, height = self.box(selector)
        self.mouse("mousePressed", x + width / 2, y + height / 2)
        self.mouse("mouseReleased", x + width / 2, y + height / 2)

    def show(self, width, height, phone=False, scheme="light"):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))


ANSWER = "document.getElementById('answer').textContent"
INK = "state.pixels.filter(v => v > 0).length"
TOTAL = "+document.getElementById('total').textContent"


def draws(page):
    page.click("#clear")
    page.wait(f"{INK} === 0")
    x, y, width, height = page.box("#draw")
    page.mouse("mousePressed", x + 0.3 * width, y + 0.3 * height)
    for step in range(1, 9):
        page.mouse("mouseMoved", x + (0.3 + 0.05 * step) * width, y + (0.3 + 0.05 * step) * height)
    page.mouse("mouseReleased", x + 0.7 * width, y + 0.7 * height)
    page.wait(f"{INK} > 30")
    page.wait(f"{ANSWER} !== '' && !{ANSWER}.includes(' - ')")  # a drawing has no label to be right about


def main():
    url, first = sys.argv[1:3]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        page = Browser(profile)
        try:
            page.show(1080, 900)
            page.call("Page.navigate", url=url)
            page.wait(f"{ANSWER}.startsWith('{first}')")
            page.wait("document.querySelectorAll('.bar.best').length === 1")
            page.wait("/compute [0-9.]+, serialize [0-9.]+ ms; batch of [0-9]+/.test("
                      "document.getElementById('timing').textContent)")
            draws(page)
            page.click("#gallery canvas:nth-child(1)")
            page.wait(f"{ANSWER}.startsWith('{first}') && {ANSWER}.includes(' - ')")
            before = page.value(TOTAL)
            page.click("#all")
            page.wait(f"{TOTAL} > {before}")
            page.wait("/^[0-9]+ of [0-9]+ right$/.test(document.getElementById('score').textContent)")
            page.wait("!document.getElementById('all').disabled")
            page.wait("parseFloat(document.getElementById('p95').textContent) > 0 && "
                      "parseFloat(document.getElementById('per_s').textContent) > 0")
            page.wait("document.querySelectorAll('#batches rect').length > 0")
            page.wait("document.querySelectorAll('#tail path').length > 0")
            if len(sys.argv) > 3:
                page.wait("state.history.length >= 30", 60)
                page.screenshot(sys.argv[3])
            light = page.value("getComputedStyle(document.body).backgroundColor")
            page.show(360, 780, phone=True, scheme="dark")
            page.wait("document.documentElement.scrollWidth <= 360")
            assert page.box("#draw")[1] < page.box("#answer")[1] < page.box("#batches")[1], "the answer is out of sight"
            assert page.value("getComputedStyle(document.body).backgroundColor") != light, "dark mode looks as light"
            draws(page)
            if len(sys.argv) > 3:
                page.screenshot(sys.argv[3].replace(".png", "-phone.png"))
            assert not page.complaints, "the console has: " + "\n".join(page.complaints)
        finally:
            page.process.kill()
            page.process.wait()
    print("ok")


if __name__ == "__main__":
    main()
