// A camera, and frames of it: no larger than `LONG_SIDE_PX`, as JPEG.

import { t } from "./i18n.js";

const LONG_SIDE_PX = 960;
const QUALITIES = [0.9, 0.75, 0.5];

export class Camera {
  constructor(video, maxBytes) {
    this.video = video;
    this.maxBytes = maxBytes;
    this.canvas = document.createElement("canvas");
    this.stream = null;
  }

  get on() {
    return this.stream !== null;
  }

  /** Whether the picture is of whoever looks at the screen, and shown as a mirror shows it. */
  get facesUser() {
    return this.stream?.getVideoTracks()[0]?.getSettings().facingMode !== "environment";
  }

  /** Ask for the camera and show it; `ended()` is called when it is taken away. Throws an Error in words. */
  async start(deviceId, ended) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error(t("Browsers give the camera to pages over https, or on this very machine, only."));
    }
    const size = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 15 } };
    const wanted = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { ...size, ...wanted }, audio: false });
    } catch (error) {
      throw new Error(inWords(error));
    }
    this.stop();
    this.stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", ended);
    this.video.srcObject = stream;
    await this.video.play();
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** Ids and names of all cameras; names are told only after one was allowed. */
  async list() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    return devices.filter((device) => device.kind === "videoinput").map((device) => ({ id: device.deviceId, name: device.label }));
  }

  /** What it sees now: `{ blob, width, height }`; null while it shows nothing. */
  async frame() {
    const { videoWidth, videoHeight } = this.video;
    if (!this.on || !videoWidth || this.video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return null;
    const scale = Math.min(1, LONG_SIDE_PX / Math.max(videoWidth, videoHeight));
    const [width, height] = [Math.round(videoWidth * scale), Math.round(videoHeight * scale)];
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.canvas.getContext("2d", { alpha: false }).drawImage(this.video, 0, 0, width, height);
    for (const quality of QUALITIES) {
      const blob = await new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", quality));
      if (blob && blob.size <= this.maxBytes) return { blob, width, height };
    }
    return null;
  }
}

function inWords(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return t("The camera was not allowed. Allow it for this page in the browser's settings, and start again.");
    case "NotFoundError":
    case "OverconstrainedError":
      return t("There is no camera here.");
    case "NotReadableError":
    case "AbortError":
      return t("The camera cannot be used: another program may have it.");
    default:
      return t("The camera cannot be used: {reason}", { reason: error.message });
  }
}
