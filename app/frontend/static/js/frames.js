// The WebSocket of a session: frames out, answers in, and again after a lost connection (docs/api.md).

const AGAIN = new Set([1005, 1006, 1011, 1012, 4002, 4005]);
const ATTEMPTS = 6;
const PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;
// More are on their way or waiting already: a newer frame would only take the place of one of them.
const UNANSWERED = 2;
// Of many frames that are too many, the service tells of some only.
const PATIENCE_MS = 3000;

export class FrameStream {
  /**
   * `handlers`: `message(told)`; `lost(attempt)` while it connects again; `closed(code)` when it does not any more.
   */
  constructor(session, handlers) {
    this.session = session;
    this.handlers = handlers;
    this.attempt = 0;
    this.over = false;
    this.connect();
  }

  connect() {
    const url = new URL(this.session.stream, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, ["facedex.v1", `facedex.token.${this.session.token}`]);
    this.socket = socket;
    this.ready = false;
    this.unanswered = 0;
    socket.addEventListener("message", (event) => this.hear(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => { if (socket === this.socket) this.ended(event.code); });
  }

  hear(told) {
    if (told.type === "ready") {
      this.ready = true;
      this.attempt = 0;
    }
    if (told.type === "frame") this.unanswered = Math.max(0, this.unanswered - 1);
    if (told.result) this.over = true;
    this.handlers.message(told);
  }

  ended(code) {
    this.ready = false;
    if (this.over) return;
    if (!AGAIN.has(code) || this.attempt >= ATTEMPTS) {
      this.over = true;
      this.handlers.closed(code);
      return;
    }
    this.attempt += 1;
    this.handlers.lost(this.attempt);
    const pause = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** (this.attempt - 1));
    this.timer = setTimeout(() => this.connect(), pause * (0.75 + Math.random() / 2));
  }

  /** Whether something that is sent now goes out: a socket that closes says so only once it is closed. */
  get open() {
    return this.ready && !this.over && this.socket.readyState === WebSocket.OPEN;
  }

  /** Whether a frame would be looked at soon. */
  get wants() {
    if (this.unanswered && Date.now() - this.sentAt > PATIENCE_MS) this.unanswered = 0;
    return this.open && this.socket.bufferedAmount === 0 && this.unanswered < UNANSWERED;
  }

  send(blob) {
    if (!this.open) return;
    this.unanswered += 1;
    this.sentAt = Date.now();
    this.socket.send(blob);
  }

  /** "finish" or "cancel"; false where nobody hears it now. */
  command(type) {
    if (!this.open) return false;
    this.socket.send(JSON.stringify({ type }));
    return true;
  }

  /** Leave. The session itself may be gone on with. */
  close() {
    this.over = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}
