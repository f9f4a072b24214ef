// Placeholder until the schema is there.
export function validateLine(line: string): void {
  JSON.parse(line)
}
