/* --jail's places against those who plant things in them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/jail.h"

static struct {
	char directory[64], good[96], link[96], inside[96], file[96], open[96], through[128];
} at;

static void set_up(void)
{
	if (geteuid())
		cr_skip_test("only root enters a jail");
	strcpy(at.directory, "/tmp/test_jail.XXXXXX");
	cr_assert_not_null(mkdtemp(at.directory));
	snprintf(at.good, sizeof(at.good), "%s/good", at.directory);
	snprintf(at.link, sizeof(at.link), "%s/link", at.directory);
	snprintf(at.inside, sizeof(at.inside), "%s/good/inside", at.directory);
	snprintf(at.through, sizeof(at.through), "%s/link/inside", at.directory);
	snprintf(at.file, sizeof(at.file), "%s/file", at.directory);
	snprintf(at.open, sizeof(at.open), "%s/open", at.directory);
	cr_assert_eq(mkdir(at.good, 0755), 0);
	cr_assert_eq(mkdir(at.inside, 0755), 0);
	cr_assert_eq(mkdir(at.open, 0755), 0);
	cr_assert_eq(chmod(at.open, 0777), 0);
	cr_assert_eq(symlink(at.good, at.link), 0);
	fclose(fopen(at.file, "w"));
}

static void tear_down(void)
{
	rmdir(at.inside);
	rmdir(at.good);
	rmdir(at.open);
	unlink(at.link);
	unlink(at.file);
	rmdir(at.directory);
}

TestSuite(jail, .init = set_up, .fini = tear_down, .timeout = 300);

static void refused(struct options_jail o, int code, const char *words)
{
	struct jail jail = { .root_fd = 77 };
	struct error err = { "" };
	int next = dup(STDOUT_FILENO);

	cr_expect_eq(jail_open(&jail, &o, &err), -code, "%s", err.text);
	cr_expect(strstr(err.text, "--jail") && strstr(err.text, words), "%s", err.text);
	cr_expect_eq(jail.root_fd, 77, "nothing is half-made");
	close(next);
	cr_expect_eq(dup(STDOUT_FILENO), next, "a descriptor is left open");
	close(next);
}

Test(jail, cve_2026_1386_a_link_is_not_followed_wherever_it_stands)
{
	refused((struct options_jail){ .root = at.link }, ELOOP, "symbolic link");
	refused((struct options_jail){ .root = at.through }, ELOOP, "symbolic link");
	refused((struct options_jail){ .netns = at.link }, ELOOP, "symbolic link");
	refused((struct options_jail){ .netns = (char *)"/proc/self/ns/net" }, ELOOP, "symbolic link");
	refused((struct options_jail){ .cgroup = at.through }, ELOOP, "symbolic link");
}

Test(jail, a_path_does_not_climb)
{
	char up[160];

	snprintf(up, sizeof(up), "%s/../good", at.good);
	refused((struct options_jail){ .root = up }, EINVAL, "'..'");
	refused((struct options_jail){ .cgroup = (char *)"/sys/fs/cgroup/../../../tmp" }, EINVAL, "'..'");
	refused((struct options_jail){ .netns = (char *)".." }, EINVAL, "'..'");
	refused((struct options_jail){ .root = (char *)"relative" }, EINVAL, "from / on");
}

Test(jail, a_place_is_what_its_key_says)
{
	refused((struct options_jail){ .cgroup = at.good }, EINVAL, "is no cgroup");
	refused((struct options_jail){ .netns = at.file }, EINVAL, "is no namespace");
	refused((struct options_jail){ .root = at.file }, ENOTDIR, "root=");
	refused((struct options_jail){ .root = (char *)"/nonexistent" }, ENOENT, "check the path");
	refused((struct options_jail){ .root = at.open }, EPERM, "writable by nobody else");
	refused((struct options_jail){ .uid = 65534 }, EINVAL, "give both");
}

static bool stands_in(const char *path)
{
	struct stat root, place;

	return stat("/", &root) == 0 && stat(path, &place) == 0 && root.st_ino == place.st_ino;
}

Test(jail, who_entered_is_somebody_else_somewhere_else_for_good)
{
	const struct options_jail o = { .uid = 65534, .gid = 65534, .root = at.good };
	pid_t child = fork();
	int status;

	if (child == 0) {
		struct jail jail;
		struct error err;
		int ok = jail_open(&jail, &o, &err) == 0 && jail_enter(&jail, &err) == 0 && jail_become(&jail, &err) == 0;

		ok = ok && getuid() == 65534 && geteuid() == 65534 && getegid() == 65534 && getgroups(0, NULL) == 0;
		ok = ok && setuid(0) < 0 && stands_in(".") && access("/inside", F_OK) == 0 && access("/etc", F_OK) < 0;
		_exit(!ok);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
