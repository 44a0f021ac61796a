// Work on many things, some at a time.

/**
 * Calls `work(item, signal)` for each item, so many at once, in their order; what it throws ends nothing: `work` tells of its own errors.
 * Resolves when all are done, or when it was stopped and the last that had begun has ended.
 */
export class Queue {
  #waiting = [];
  #stopping = new AbortController();
  #running = 0;
  #idle = [];

  constructor(work, atOnce) {
    this.work = work;
    this.atOnce = atOnce;
  }

  get stopped() {
    return this.#stopping.signal.aborted;
  }

  async run(items) {
    this.#waiting.push(...items);
    const ended = new Promise((resolve) => { this.#idle.push(resolve); });
    this.#begin();
    await ended;
  }

  /** Begin nothing more, and give up what has begun. Gives back what had not begun. */
  stop() {
    this.#stopping.abort();
    return this.#waiting.splice(0);
  }

  #begin() {
    while (this.#running < this.atOnce && this.#waiting.length > 0) {
      this.#running += 1;
      this.#one(this.#waiting.shift());
    }
    if (this.#running === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  async #one(item) {
    try {
      await this.work(item, this.#stopping.signal);
    } finally {
      this.#running -= 1;
      this.#begin();
    }
  }
}
