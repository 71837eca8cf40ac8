/*
 * microvm --check: what this host can do for a machine, one plain line each, with a remedy where
 * something is missing.
 */
#ifndef VMM_CHECK_H
#define VMM_CHECK_H

/*
 * Prints to stdout. 0: machines run here; 1: something that every machine needs is missing. Main,
 * before any machine.
 */
int check_host(void);

#endif
