// For tests that hold answers to half a second: other load on the machine must not decide their outcome. Niceness is not
// enough: where the kernel groups processes by session, it counts only within the group.
import { spawnSync } from 'node:child_process'

/** This process, and what it starts from here on, goes before others, where the system allows it. */
export function goFirst(): void {
  spawnSync('chrt', ['--rr', '--all-tasks', '--pid', '1', String(process.pid)])
}

/** The process `pid` goes after those that go first: its own computing is not measured. */
export function goLast(pid: number): void {
  spawnSync('chrt', ['--other', '--all-tasks', '--pid', '0', String(pid)])
}
