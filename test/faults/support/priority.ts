// For files that hold answers to half a second: what else the machine computes at that moment must not decide about them.
import { setPriority } from 'node:os'

/** This process, and what it starts from here on, goes before others; as root, which this suite is. */
export function goFirst(): void {
  setPriority(-20)
}
