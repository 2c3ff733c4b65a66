// Prints what fires, and what keeps firings away, until Ctrl-C:
//
//   npx tsx src/watch.ts http://127.0.0.1:50071 vcr
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { MissedReason } from "./gen/saewatch/v1/common_pb.js";
import { type FeatureTable, type FiringBatch, FiringService, GapReason } from "./gen/saewatch/v1/firing_pb.js";

const [baseUrl = "http://127.0.0.1:50071", ...categories] = process.argv.slice(2);
const SILENCE_MS = 5_000; // the sidecar says something each second
const FINAL = new Set([Code.InvalidArgument, Code.Unauthenticated, Code.PermissionDenied, Code.Unimplemented]);

const client = createClient(FiringService, createGrpcTransport({ baseUrl }));
let resumeToken = "";
let attempt = 0;

for (;;) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  const tables = new Map<number, FeatureTable>(); // numbers mean nothing beyond a connection
  try {
    const request = { filter: { categories }, resumeToken };
    for await (const message of client.watchFirings(request, { signal: silence.signal })) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      attempt = 0;
      const { event } = message;
      if (event.case === "table") tables.set(event.value.number, event.value);
      else if (event.case === "batch") show(event.value, tables.get(event.value.table));
      else if (event.case === "coverage")
        for (const one of event.value.blind) console.log(`BLIND: ${one.scope} ${one.subject}, ${one.reason}. ${one.hint}`);
      else if (event.case === "gap") {
        const size = event.value.unknown ? "nobody knows how much" : `${event.value.tokens} tokens, ${event.value.firings} firings`;
        console.log(`GAP (${GapReason[event.value.reason]}): ${size} not received`);
      } else if (event.case === "ended") console.log(`${event.value.request?.clientId} ended`);
      resumeToken = message.resumeToken || resumeToken; // after the event was dealt with, never before
    }
    console.log("DISCONNECTED: the stream has ended");
  } catch (error) {
    const failed = ConnectError.from(error);
    if (FINAL.has(failed.code)) throw failed; // asking again cannot help
    console.log(`DISCONNECTED: ${failed.message}`);
  } finally {
    clearTimeout(timer);
  }
  const ceiling = Math.min(10_000, 200 * 2 ** attempt++);
  await new Promise((resolve) => setTimeout(resolve, Math.random() * ceiling));
}

/** Rows are numbered over the spans; a feature fires where one of its slots fires above the feature's own floor. */
function show(batch: FiringBatch, table: FeatureTable | undefined): void {
  if (table === undefined) throw new Error(`batch of table ${batch.table}, which was not sent`);
  let span = 0;
  let first = 0; // row of the span
  batch.row.forEach((row, index) => {
    while (row >= first + batch.spanTokens[span]!) first += batch.spanTokens[span++]!;
    const request = batch.requests[batch.spanRequest[span]!]; // undefined: not known
    const position = batch.spanPosition[span]! + row - first;
    const [slot, value] = [batch.slot[index]!, batch.value[index]!];
    for (const { feature, slots } of table.features) {
      if (feature === undefined || !slots.includes(slot) || value <= feature.floor) continue;
      if (categories.length > 0 && !categories.includes(feature.category)) continue;
      const part = request === undefined ? "?" : position < request.promptLen ? "prompt" : "answer";
      console.log(`${request?.clientId ?? "unknown"} ${part} ${position} ${feature.id} ${value.toFixed(2)}`);
    }
  });
  batch.missedTokens.forEach((tokens, index) => {
    console.log(`${tokens} tokens not seen: ${MissedReason[batch.missedReason[index]!]}`);
  });
}
