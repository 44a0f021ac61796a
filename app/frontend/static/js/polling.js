// Ask again and again, while somebody looks.

const LONGEST_MS = 60_000;

/**
 * `ask()` every `every_ms`, one at a time; less often while it fails, and not while the page is hidden or `paused`.
 * Returns `{ now(), pause(yes) }`.
 */
export function polling(ask, every_ms) {
  let timer = null;
  let failures = 0;
  let busy = false;
  let again = false;
  let paused = false;

  async function run() {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    if (document.hidden) return;
    busy = true;
    again = false;
    try {
      await ask();
      failures = 0;
    } catch {
      failures += 1;
    } finally {
      busy = false;
    }
    if (again) run();
    else if (!paused) timer = setTimeout(run, Math.min(LONGEST_MS, every_ms * 2 ** failures));
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (!paused) run();
  });
  return {
    now: run,
    pause(yes) {
      paused = yes;
      if (paused) clearTimeout(timer);
      else run();
    },
  };
}
