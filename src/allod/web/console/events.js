// What administrators did, in words.

const KINDS = {
  "project.created": "Tenant created",
  "project.updated": "Tenant changed",
  "project.archived": "Tenant archived: its keys open nothing any more",
  "api_key.created": "Key created",
  "api_key.updated": "Key changed",
  "api_key.deleted": "Key ended",
  "service_account.created": "Service account created",
  "service_account.updated": "Service account changed",
  "service_account.deleted": "Service account and its keys ended",
  "rate_limit.updated": "Limit of a model changed",
  "organization.updated": "Setting of the whole realm changed",
  "replica.drained": "Replica drained: it is sent nothing new",
  "replica.resumed": "Replica sent requests again",
  "replica.restarted": "Replica drained, to be started again",
};

/** One sentence for the event; a kind that has none is shown as it is called. */
export const eventWords = ({ type }) => KINDS[type] ?? type;

/** Who did it. */
export function actorWords({ actor }) {
  const id = actor.api_key?.id ?? actor.session?.user?.id ?? "nobody known";
  if (actor.type === "api_key") return id.startsWith("key_admin") ? "the key in admin.key" : `admin key ${id}`;
  return whoWords(id);
}

/** Whoever sat at the machine itself, which the logs call `<way>:<name>`. */
export function whoWords(who) {
  const [way, name] = who.split(/:(.*)/s);
  if (way === "allod") return "Allod itself, when it first started";
  return way === "cli" ? `${name}, at this machine’s command line` : who;
}

/** What it is about, and all else that the log holds of it: [name, text]. */
export function eventFacts(event) {
  const { id, data, changes_requested: changes, ...others } = event[event.type] ?? {};
  const more = { ...data, ...changes, ...others };
  if (more.title === more.name) delete more.title; // the dialect says a name twice
  return [
    ["About", id],
    ...Object.entries(more).map(([name, value]) => [NAMES[name] ?? spaced(name), plain(value)]),
    ["Event", event.id],
    ["Kind", event.type],
  ];
}

const NAMES = { allod: "Terms" };

const spaced = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

/** Values as text; what is nested as `name: value` pairs, without what is not set. */
function plain(value) {
  if (value === null || value === undefined) return "none";
  if (Array.isArray(value)) return value.map(plain).join(", ") || "none";
  if (typeof value !== "object") return String(value);
  const pairs = Object.entries(value).filter(([, inner]) => inner !== null && plain(inner) !== "none");
  return pairs.map(([name, inner]) => `${name.replaceAll("_", " ")}: ${plain(inner)}`).join("; ") || "none";
}
