/* The tests in this guest, chosen by test=NAME on its command line; one table per file, guest_tests in tests.c. */
#ifndef TESTS_GUEST_TESTS_H
#define TESTS_GUEST_TESTS_H

struct guest_test {
	const char *name; /* NULL ends */
	void (*run)(void);
};

extern const struct guest_test *const guest_tests[]; /* NULL ends */
/* Those of the CPU, and its hostile cases, in its folder. */
extern const struct guest_test *const cpu_tests[];

extern const struct guest_test life_tests[], pci_tests[], regs_tests[], blk_tests[], blk_away_tests[],
	net_tests[], char_tests[], fault_tests[], hostile_tests[], attack_tests[];

#endif
