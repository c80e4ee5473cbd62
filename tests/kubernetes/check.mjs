// SPDX-License-Identifier: Apache-2.0
// Objects, a JSON list on standard input → what is wrong with each, a line each.
//
// Twice: the schemas' validators know formats, ranges and what is required; the
// types know which fields there are, and an object literal with another is an error.
import fs from "node:fs";
import path from "node:path";
import ts from "typescript";

const objects = JSON.parse(fs.readFileSync(0, "utf8"));
const named = (o) => `${o.kind} ${o.metadata?.name}`;
const wrong = [];
let source = "";
const lines = [];

for (const [i, o] of objects.entries()) {
	const place = `kubernetes-models/${o.apiVersion}/${o.kind}`;
	let model;
	try {
		model = (await import(place))[o.kind];
	} catch {
		wrong.push(`${named(o)}: ${o.apiVersion} has no such kind`);
		continue;
	}
	try {
		new model(o).validate();
	} catch (error) {
		wrong.push(`${named(o)}: ${error.message}`);
	}
	const before = source.split("\n").length;
	source += `import type { I${o.kind} as T${i} } from "${place}";\n` +
		`export const o${i}: T${i} = ${JSON.stringify(o, null, 1)};\n`;
	lines.push([before, o]);
}

const file = path.resolve("objects.mts");
fs.writeFileSync(file, source);
const program = ts.createProgram([file], {
	noEmit: true, strict: true, skipLibCheck: true, types: [],
	target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext,
	moduleResolution: ts.ModuleResolutionKind.NodeNext,
});
for (const d of ts.getPreEmitDiagnostics(program)) {
	const at = d.file ? d.file.getLineAndCharacterOfPosition(d.start).line + 1 : 0;
	const of = lines.findLast(([line]) => line <= at)?.[1];
	const text = d.file?.text.split("\n")[at - 1]?.trim() ?? "";
	wrong.push(`${of ? named(of) : "types"}: ${ts.flattenDiagnosticMessageText(d.messageText, " ")}` +
		` (${text})`);
}
console.log(wrong.join("\n"));
process.exit(wrong.length ? 1 : 0);
