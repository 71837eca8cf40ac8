/*
 * The second layer of stage 3: Landlock (Documentation/userspace-api/landlock.rst) with no rule at
 * all, so that nothing may be opened, made, run, bound or connected to, whatever file systems and
 * networks the process still sees. It is the first layer where namespaces are forbidden to us.
 *
 * Each version of the interface knows more rights. The newest is tried first: a kernel that is
 * older refuses what it does not know, and is asked for less. The numbers are those of the
 * interface, not of the headers of the machine that compiled us.
 */
#include "vmm/landlock.h"

#include <errno.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/util.h"

struct ruleset {
	uint64_t fs, net, scoped;
};
_Static_assert(sizeof(struct ruleset) == 24, "struct landlock_ruleset_attr, version 6");

enum {
	FS_FIRST = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
		LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_CHAR |
		LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
		LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM,
	FS_REFER = 1 << 13,
	FS_TRUNCATE = 1 << 14,
	FS_THIRD = FS_FIRST | FS_REFER | FS_TRUNCATE,
	FS_IOCTL_DEV = 1 << 15,
	NET_TCP = 1 << 0 | 1 << 1, /* bind, connect */
	SCOPE_ABSTRACT_SOCKETS = 1 << 0,
	SCOPE_SIGNALS = 1 << 1,
};

/* From new to old; `size` is how much of the struct that version has. */
static const struct {
	int abi;
	struct ruleset all;
	size_t size;
} versions[] = {
	{ 6, { FS_THIRD | FS_IOCTL_DEV, NET_TCP, SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS }, 24 },
	{ 5, { FS_THIRD | FS_IOCTL_DEV, NET_TCP, 0 }, 16 },
	{ 4, { FS_THIRD, NET_TCP, 0 }, 16 },
	{ 3, { FS_THIRD, 0, 0 }, 8 },
	{ 2, { FS_FIRST | FS_REFER, 0, 0 }, 8 },
	{ 1, { FS_FIRST, 0, 0 }, 8 },
};

int landlock_all(bool keep_remove, bool keep_signals)
{
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		struct ruleset attr = versions[i].all;
		int fd, r;

		attr.fs |= keep_remove ? 0 : LANDLOCK_ACCESS_FS_REMOVE_FILE;
		attr.scoped &= keep_signals ? ~(uint64_t)SCOPE_SIGNALS : ~UINT64_C(0);
		fd = (int)syscall(SYS_landlock_create_ruleset, &attr, versions[i].size, 0);
		if (fd < 0 && (errno == EINVAL || errno == E2BIG))
			continue;
		if (fd < 0)
			return -errno;
		r = syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : versions[i].abi;
		close(fd);
		return r;
	}
	return -EOPNOTSUPP;
}
