/*
 * A table of questions. Each looks at one thing and writes what it found and, when that is not
 * good, what to do; only those marked as needed decide the exit status.
 *
 * The probe guest is timed because some hosts offer KVM without hardware virtualisation: guest
 * kernel code is interpreted there, a stock kernel takes minutes to boot, and nothing else would
 * tell.
 */
#include "vmm/check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/arch.h"
#include "vmm/kvm.h"

/*
 * Above this much per guest instruction no processor is that slow: something interprets the guest.
 */
enum { SLOW_NS_PER_INSTRUCTION = 20, FEW_FILES = 1024 };

struct answer {
	bool good;
	char found[160];
	const char *remedy; /* shown when not good; NULL: `found` says it */
};

static void say(struct answer *a, bool good, const char *remedy, const char *fmt, ...) PRINTF_LIKE(4, 5);

static void say(struct answer *a, bool good, const char *remedy, const char *fmt, ...)
{
	va_list ap;

	a->good = good;
	a->remedy = remedy;
	va_start(ap, fmt);
	vsnprintf(a->found, sizeof(a->found), fmt, ap);
	va_end(ap);
}

static void ask_kvm(struct answer *a)
{
	struct error err;
	struct kvm kvm;

	if (kvm_open(&kvm, &err) < 0) {
		say(a, false, NULL, "%.159s", err.text);
		return;
	}
	say(a, true, NULL, "%u vCPUs for a machine at most", kvm_max_vcpus(&kvm));
	kvm_close(&kvm);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Run the probe in a VM of its own; nanoseconds it took, or -errno. */
static int64_t run_probe(struct kvm *kvm, struct guest_mem *mem, struct error *err)
{
	const struct mem_config config = { 0 };
	struct kvm_run *run;
	int64_t start;
	int fd, r = mem_add_ram(mem, 0, MIB, &config, err);

	if (r == 0)
		r = kvm_create_vm(kvm, err);
	if (r == 0)
		r = kvm_attach_mem(kvm, mem, err);
	if (r == 0)
		r = mem_write(mem, gpa(arch_probe.load_at), arch_probe.code, arch_probe.len);
	if (r < 0)
		return r;
	fd = kvm_create_vcpu(kvm, 0, 0, err);
	if (fd < 0)
		return fd;
	run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	r = run == MAP_FAILED ? -errno : arch_probe_enter(kvm, fd, err);
	start = now_ns();
	if (r == 0)
		r = kvm_ioctl(fd, KVM_RUN, 0);
	if (r == 0 && run->exit_reason != KVM_EXIT_IO && run->exit_reason != KVM_EXIT_MMIO)
		r = -EIO;
	close(fd);
	return r < 0 ? r : now_ns() - start;
}

static void ask_speed(struct answer *a)
{
	struct guest_mem *mem = NULL;
	struct error err = { "" };
	struct kvm kvm;
	int64_t ns = kvm_open(&kvm, &err);
	uint64_t each;

	if (ns == 0)
		ns = mem_create(&mem, &err);
	if (ns == 0)
		ns = run_probe(&kvm, mem, &err);
	kvm_close(&kvm);
	mem_destroy(mem);
	if (ns < 0) {
		say(a, false, "make /dev/kvm work first", "not known: the probe guest did not run");
		return;
	}
	each = (uint64_t)ns / arch_probe.instructions;
	say(a, each < SLOW_NS_PER_INSTRUCTION,
		"this KVM interprets guest kernels; use a host with VT-x, AMD-V or ARM EL2, or nested virtualisation",
		"%s (%llu instructions in %llu us)", each < SLOW_NS_PER_INSTRUCTION ? "hardware speed" : "emulated",
		(unsigned long long)arch_probe.instructions, (unsigned long long)(ns / 1000));
}

static void ask_node(struct answer *a, const char *path, const char *remedy)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	say(a, fd >= 0, remedy, "%s: %s", path, fd >= 0 ? "usable" : strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void ask_tun(struct answer *a)
{
	ask_node(a, "/dev/net/tun", "modprobe tun; for a tap of your own: ip tuntap add NAME mode tap user $USER");
}

static void ask_vhost(struct answer *a)
{
	ask_node(a, "/dev/vhost-net", "modprobe vhost_net; taps work without, with more CPU per packet");
}

static void ask_passt(struct answer *a)
{
	const char *path = getenv("PATH");
	char file[PAGE_4K];

	for (const char *at = path ? path : ""; *at; at += strcspn(at, ":"), at += *at == ':') {
		snprintf(file, sizeof(file), "%.*s/passt", (int)strcspn(at, ":"), at);
		if (access(file, X_OK) == 0) {
			say(a, true, NULL, "%.140s", file);
			return;
		}
	}
	say(a, false, "apt install passt", "passt is not installed");
}

/* Names in a folder that begin so. */
static unsigned entries(const char *path, const char *prefix)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	if (!d)
		return 0;
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.' && !strncmp(e->d_name, prefix, strlen(prefix));
	closedir(d);
	return n;
}

static void ask_vdpa(struct answer *a)
{
	unsigned devices = entries("/dev", "vhost-vdpa-");

	say(a, devices > 0, "only for --disk vdpa= and --net vdpa=: modprobe vhost_vdpa; vdpa dev add NAME mgmtdev PARENT",
		"%u /dev/vhost-vdpa-*", devices);
}

static void ask_iommu(struct answer *a)
{
	unsigned groups = entries("/sys/kernel/iommu_groups", "");

	say(a, groups > 0, "turn the IOMMU on in the firmware and boot with intel_iommu=on or amd_iommu=on",
		"%u IOMMU groups", groups);
}

static void ask_vfio(struct answer *a)
{
	ask_node(a, "/dev/vfio/vfio", "modprobe vfio-pci; bind the device to it");
}

static unsigned long long number_in(const char *path)
{
	unsigned long long v = 0;
	FILE *f = fopen(path, "re");

	if (!f)
		return 0;
	if (fscanf(f, "%llu", &v) != 1)
		v = 0;
	fclose(f);
	return v;
}

static void ask_hugepages(struct answer *a)
{
	unsigned long long n = number_in("/proc/sys/vm/nr_hugepages");

	say(a, n > 0, "sysctl vm.nr_hugepages=N, for --memory hugepages=on", "%llu huge pages set aside", n);
}

static void ask_userfaultfd(struct answer *a)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);

	if (fd < 0)
		fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	say(a, fd >= 0, "sysctl vm.unprivileged_userfaultfd=1, or give access to /dev/userfaultfd", "%s",
		fd >= 0 ? "usable" : strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void ask_landlock(struct answer *a)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	say(a, abi > 0, "boot with lsm=landlock,... or use Linux 5.13 or later", "%s %ld",
		abi > 0 ? "version" : "none", abi > 0 ? abi : 0);
}

/* In a child: a namespace cannot be left again. */
static void ask_namespaces(struct answer *a)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0)
		_exit(unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0);
	if (child > 0)
		waitpid(child, &status, 0);
	say(a, child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0,
		"sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0; Landlock serves instead",
		"user namespaces");
}

static void ask_files(struct answer *a)
{
	struct rlimit r;

	getrlimit(RLIMIT_NOFILE, &r);
	say(a, r.rlim_max >= FEW_FILES, "raise it with ulimit -n", "%llu open files at most",
		(unsigned long long)r.rlim_max);
}

static void ask_memlock(struct answer *a)
{
	struct rlimit r;

	getrlimit(RLIMIT_MEMLOCK, &r);
	if (r.rlim_max == RLIM_INFINITY)
		say(a, true, NULL, "locked memory unlimited");
	else
		say(a, false, "passthrough needs as much as the guest's memory: ulimit -l", "%llu KiB locked memory at most",
			(unsigned long long)(r.rlim_max / KIB));
}

/* What of the host's set-up weakens the walls between machines. */

static void ask_smt(struct answer *a)
{
	bool on = number_in("/sys/devices/system/cpu/smt/active") != 0;

	say(a, !on, "machines that distrust each other must not share a core: schedule by core, or boot with nosmt",
		"sibling threads are %s", on ? "in use" : "off");
}

static void ask_ksm(struct answer *a)
{
	bool on = number_in("/sys/kernel/mm/ksm/run") == 1;

	say(a, !on, "whether pages were merged can be measured from inside a guest: echo 2 > /sys/kernel/mm/ksm/run",
		"merging of equal pages is %s", on ? "on" : "off");
}

/* The first character of a file, 0 when there is none. */
static char first_in(const char *path)
{
	FILE *f = fopen(path, "re");
	int c = f ? fgetc(f) : EOF;

	if (f)
		fclose(f);
	return c == EOF ? 0 : (char)c;
}

static void ask_nested(struct answer *a)
{
	char intel = first_in("/sys/module/kvm_intel/parameters/nested");
	char amd = first_in("/sys/module/kvm_amd/parameters/nested");
	bool on = intel == 'Y' || intel == '1' || amd == 'Y' || amd == '1';

	say(a, !on, "guests are not offered it without --cpus nested=on, but KVM is smaller without: load kvm_intel or "
		    "kvm_amd with nested=0",
		"KVM's nesting is %s", on ? "on" : "off");
}

static void ask_core_pattern(struct answer *a)
{
	bool piped = first_in("/proc/sys/kernel/core_pattern") == '|';

	say(a, !piped, "a crash before confinement hands it the process, without guest memory: sysctl kernel.core_pattern=core",
		"core dumps go to %s", piped ? "a program" : "files, and ours have size 0");
}

struct question {
	const char *name;
	bool needed;
	void (*ask)(struct answer *a);
};

static const struct question questions[] = {
	{ "KVM", true, ask_kvm },
	{ "guest kernel code", false, ask_speed },
	{ "tap networking", false, ask_tun },
	{ "vhost-net", false, ask_vhost },
	{ "vDPA", false, ask_vdpa },
	{ "user networking", false, ask_passt },
	{ "IOMMU", false, ask_iommu },
	{ "VFIO", false, ask_vfio },
	{ "huge pages", false, ask_hugepages },
	{ "userfaultfd", false, ask_userfaultfd },
	{ "Landlock", false, ask_landlock },
	{ "namespaces", false, ask_namespaces },
	{ "file limit", false, ask_files },
	{ "lock limit", false, ask_memlock },
	{ "sibling threads", false, ask_smt },
	{ "page merging", false, ask_ksm },
	{ "nesting", false, ask_nested },
	{ "core dumps", false, ask_core_pattern },
};

int check_host(void)
{
	int status = 0;

	for (size_t i = 0; i < ARRAY_SIZE(questions); i++) {
		struct answer a = { 0 };

		questions[i].ask(&a);
		printf("%-5s %s: %s", a.good ? "ok" : questions[i].needed ? "FAIL" : "no", questions[i].name, a.found);
		if (!a.good && a.remedy)
			printf("; %s", a.remedy);
		putchar('\n');
		if (!a.good && questions[i].needed)
			status = 1;
	}
	return status;
}
