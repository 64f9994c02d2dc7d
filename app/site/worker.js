/* Keeps the page for the time without a network. What was kept is served first: a new version is a new set of files,
   and takes over when no page of the old one is open. The list of files stands in the line
   above (app/site/build.py). */

const { version, core, rest } = /** @type {any} */ (globalThis).speckdSite;
const worker = /** @type {any} */ (globalThis);
const scope = new URL("./", worker.location.href).href;
const name = `speckd-lab ${scope} ${version}`;
const addressOf = (file) => new URL(file, scope).href;

async function keepAll() {
  const cache = await caches.open(name);
  for (const file of rest) { // one after another: whoever reads comes first
    const address = addressOf(file);
    if (await cache.match(address)) continue;
    try {
      await cache.add(new Request(address, { cache: "no-cache" }));
    } catch {
      return; // the network is gone: the next visit goes on
    }
  }
}

worker.addEventListener("install", (event) => {
  const files = core.map((file) => new Request(addressOf(file), { cache: "no-cache" }));
  event.waitUntil(caches.open(name).then((cache) => cache.addAll(files)));
});
worker.addEventListener("activate", (event) => {
  const old = (key) => key.startsWith(`speckd-lab ${scope} `) && key !== name;
  const drop = caches.keys().then((keys) => Promise.all(keys.filter(old).map((key) => caches.delete(key))));
  event.waitUntil(drop.then(() => worker.clients.claim()));
});
worker.addEventListener("message", (event) => {
  if (event.data === "keep all") event.waitUntil(keepAll());
});
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith(scope)) return;
  const page = request.mode === "navigate";
  const address = page ? addressOf("index.html") : request.url.replace(/[?#].*$/, "");
  const answer = async () => {
    const cache = await caches.open(name);
    const kept = await cache.match(address);
    if (kept) return kept;
    const fresh = await fetch(request);
    if (fresh.ok && !page) await cache.put(address, fresh.clone());
    return fresh;
  };
  event.respondWith(answer());
});
