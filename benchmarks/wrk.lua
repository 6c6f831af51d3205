-- What wrk sends (POST, its body and key given after `--`), and one line of JSON at the end.
function init(arguments)
  wrk.method = "POST"
  wrk.body = arguments[1]
  wrk.headers["content-type"] = "application/json"
  wrk.headers["authorization"] = "Bearer " .. arguments[2]
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests_s": %.1f, "num": %d, "median_us": %.1f, "failed": %d}\n',
    summary.requests / (summary.duration / 1e6), summary.requests, latency:percentile(50), failed))
end
