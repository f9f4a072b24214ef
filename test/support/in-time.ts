/**
 * For tests of a bound on time: the machine may stand still for a moment, so such a test has three tries. A daemon that
 * breaks its promise breaks it in each of them.
 */
export const inTime = { retry: 2 } as const
