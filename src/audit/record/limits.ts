// Limits of a line. A module without imports of its own: the threads of the files need it too, and each of them loads and
// compiles what it imports anew.

/** Longest line, LF included: common shippers cut or drop beyond 8 KiB. */
export const MAX_LINE_BYTES = 8000
/** Longest reason, in characters. */
export const MAX_REASON_CHARACTERS = 256
