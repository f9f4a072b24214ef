// Limits of a line. This module imports nothing: the threads of the files use it too, and each thread loads and compiles its
// imports anew.

/** Longest line, LF included: common shippers cut or drop beyond 8 KiB. */
export const MAX_LINE_BYTES = 8000
/** Longest reason, in characters. */
export const MAX_REASON_CHARACTERS = 256
