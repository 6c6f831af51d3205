// Server-sent events, as far as an OpenAI stream uses them: lines of `data:`, comments, blank lines.

/** The `data` of each event in the body of `response`, in order. */
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // the gateway must learn that nobody reads on; it may be gone already
  }
}
