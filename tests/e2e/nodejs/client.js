// SPDX-License-Identifier: Apache-2.0
// The same as client.py's list and watch, by Node.js: client.js PROTO TARGET COMMAND …
"use strict";

const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const TIMEOUT_MS = 8000;
const [proto, target, command, argument] = process.argv.slice(2);

function credentials() {
  const read = (key) => fs.readFileSync(process.env["MCMESH_" + key]);
  if (!process.env.MCMESH_CACERT) return grpc.credentials.createInsecure();
  return grpc.credentials.createSsl(read("CACERT"), read("KEY"), read("CERT"));
}

const definition = loader.loadSync("mcmesh/v1/mesh.proto", {
  includeDirs: [proto],
  longs: String,
  enums: String,
  defaults: true,
});
const service = grpc.loadPackageDefinition(definition).mcmesh.v1.MeshService;
const client = new service(target, credentials());
const deadline = () => ({ deadline: Date.now() + TIMEOUT_MS });
const say = (value) => console.log(JSON.stringify(value));

function fail(error) {
  say({ code: grpc.status[error.code], details: error.details });
  client.close();
}

function ask(method, request) {
  return new Promise((resolve, reject) =>
    client[method](request, deadline(), (error, answer) =>
      error ? reject(error) : resolve(answer)));
}

async function list(group) {
  say([
    await ask("ListNodes", {}),
    await ask("ListGroups", {}),
    await ask("ListMembers", { group }),
    await ask("ListRoutes", { node: "n1" }),
    await ask("Verify", {}),
  ]);
  client.close();
}

function watch(token) {
  const stream = client.Watch({ resumeToken: token, membersOnly: true }, deadline());
  let over = false;
  stream.on("data", (event) => {
    if (over) return;
    say(event);
    over = event.type === "SYNCED" || event.type === "BOOKMARK";
    if (over) stream.cancel();
  });
  stream.on("error", (error) => (over ? client.close() : fail(error)));
}

if (command === "list") list(argument).catch(fail);
else watch(argument);
