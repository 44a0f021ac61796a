"""`/usr/bin/python3 rtsp_server.py PORT [FILE WIDTH HEIGHT]`: a camera that speaks RTSP, by GStreamer's own server.

It knows nothing of the project, and runs with Debian's Python, whose GStreamer it needs (`tests.edge.rtsp`). It sends H.264, 25
pictures a second, the same to all clients. In each stands when it was taken, in hundredths of a second of the Unix time: 24
squares, white is 1, the highest bit first. With a FILE, it is that very picture again and again: RGB, 3 bytes a pixel.
"""

import signal
import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

SQUARE, BITS, HEIGHT = 16, 24, 32
PIPELINE = (
    "appsrc name=lens is-live=true format=time"
    " caps=video/x-raw,format={format},width={width},height={height},framerate=25/1"
    " ! videoconvert ! video/x-raw,format=I420"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=12 ! rtph264pay name=pay0 pt=96 config-interval=1"
)


def clock() -> bytes:
    """The picture that says what time it is."""
    number = int(time.time() * 100) % 2**BITS
    row = b"".join((b"\xf0" if number >> bit & 1 else b"\x10") * SQUARE for bit in reversed(range(BITS)))
    return row * HEIGHT


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Gst.init(None)
    port, *still = sys.argv[1:]
    pixels = Path(still[0]).read_bytes() if still else b""
    picture = (lambda: pixels) if still else clock
    caps = ("RGB", *still[1:]) if still else ("GRAY8", SQUARE * BITS, HEIGHT)

    def film(lens: Gst.Element, ended: threading.Event) -> None:
        while not ended.wait(0.04):
            if (running := lens.get_clock()) is None:
                continue  # nobody has asked for pictures yet
            at = running.get_time() - lens.get_base_time()
            taken = Gst.Buffer.new_wrapped(picture())
            taken.pts = at
            lens.emit("push-buffer", taken)

    def configure(_factory: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
        lens, ended = media.get_element().get_child_by_name("lens"), threading.Event()
        media.connect("unprepared", lambda _: ended.set())
        threading.Thread(target=film, args=(lens, ended), daemon=True).start()

    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    pipeline = PIPELINE.format(format=caps[0], width=caps[1], height=caps[2])
    factory = GstRtspServer.RTSPMediaFactory(launch=f"( {pipeline} )", shared=True)
    factory.connect("media-configure", configure)
    server.get_mount_points().add_factory("/door", factory)
    server.attach(None)
    GLib.MainLoop().run()


main()
