// Reads an AsyncAPI document from standard input; prints what the official parser has to say of it, as JSON.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
const found = diagnostics.map((one) => ({ severity: one.severity, at: one.path.join("."), message: one.message }));
const operations = document ? document.allOperations().all().map((one) => one.id()) : [];
console.log(JSON.stringify({ found, operations }));
