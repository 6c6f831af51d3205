// Reading something again and again, while somebody can see it.

/**
 * Call `read(gateway)` now, and again `everyMs` after it has ended, until the function that is returned is called.
 * Nothing is read while the page is hidden. `fail(error)` is told of what goes wrong; reading goes on.
 */
export function poll(everyMs, read, fail) {
  let isOver = false;
  const step = async () => {
    if (isOver) return;
    if (!document.hidden) await read().catch((error) => isOver || fail(error));
    if (!isOver) setTimeout(step, everyMs);
  };
  step();
  return () => (isOver = true);
}
